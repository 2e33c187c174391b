"""What the server tells about itself: `/v1/models`, `/health`, `/metrics`. Answers no question."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .context import Context
from .errors import RequestError
from .metrics import CONTENT_TYPE


class Information:
    """The endpoints."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        name, served = request.path_params["model"], self._context.settings.model.name
        if name != served:
            message = f"there is no model {name[:200]!r}; this server has {served!r}"
            raise RequestError(message, "model", "model_not_found", 404)
        return JSONResponse(self._model())

    async def health(self, request: Request) -> Response:
        load = self._context.answering.load()
        is_ready = load.devices > 0 and load.ready == load.devices
        body = {"status": "ok" if is_ready else "unavailable", "devices": load.devices, "ready": load.ready}
        return JSONResponse(body, 200 if is_ready else 503)

    async def metrics(self, request: Request) -> Response:
        return Response(self._context.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    def _model(self) -> dict[str, object]:
        """The model in OpenAI's form; `default_question` is ours."""
        model = self._context.settings.model
        own = {"default_question": model.question}
        return {"id": model.name, "object": "model", "created": model.created, "owned_by": "local", **own}
