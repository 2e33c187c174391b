"""The server with an HTTP application of a few lines and a fake device program. Its arguments are those of the server.

python -m tests.serving.stub_server [--fake_device ARGUMENT]... --pretrained_model_name_or_path FOLDER ...
"""

from __future__ import annotations

import json
import sys
from typing import Any

from pipeline.captioning.generation.options import GenerationOptions
from pipeline.serving import command
from pipeline.serving.devices.devices import Devices
from pipeline.serving.messages import Ask, Done
from pipeline.serving.questions import QueueFull
from pipeline.serving.settings import HttpSettings
from tests.serving.devices.fake_devices import FAKE_COMMAND

FRAMEWORKS = ("torch", "mindspore", "mindnlp", "transformers")


def make_app(settings: HttpSettings, devices: Devices) -> Any:
    """GET /health, GET /about, and POST /ask, whose body is a question."""

    async def answer(question: str) -> tuple[int, str]:
        try:
            accepted = devices.ask(Ask(1, question, GenerationOptions()))
        except QueueFull as error:
            return 503, str(error)
        last = [message async for message in accepted.answers()][-1]
        return (200, last.text) if isinstance(last, Done) else (500, last.message)

    async def respond(scope: Any, receive: Any) -> tuple[int, str]:
        if scope["path"] == "/ask":
            return await answer((await receive())["body"].decode())
        if scope["path"] == "/health":
            return (200 if devices.load().ready == devices.load().devices else 503), ""
        model = settings.model
        return 200, json.dumps(
            {
                "processes": devices.process_ids(),
                "running": devices.load().running,
                "model": [model.name, model.question, model.options.max_new_tokens, model.sampling.num_frames],
                "body_bytes": settings.limits.body_bytes,
                "domains": sorted(settings.access.domains),
                "folders": [str(folder) for folder in settings.access.folders],
                "has_key": bool(settings.api_key),
                "frameworks": [name for name in FRAMEWORKS if name in sys.modules],
            }
        )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for event in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{event}.complete"})
            return
        status, text = await respond(scope, receive)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": text.encode()})

    return app


def main() -> int:
    arguments, fake = sys.argv[1:], []
    while arguments[:1] == ["--fake_device"]:
        fake.append(arguments[1])
        arguments = arguments[2:]
    return command.main(arguments, make_app, (*FAKE_COMMAND, *fake))


if __name__ == "__main__":
    sys.exit(main())
