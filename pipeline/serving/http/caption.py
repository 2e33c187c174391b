"""`POST /caption`: from a form with files to a question. For curl, and for the page of the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request

from ...captioning.clips.file_kind import file_kind
from ...captioning.clips.media import VIDEO
from ..messages import Ask
from ..settings import ServedModel
from .bodies import check_headers
from .context import Context
from .endpoint import Asked
from .errors import RequestError
from .fields import Fields
from .frames import kept
from .generation import generation_options, video_options, video_sampling
from .messages import MOST_CHARACTERS
from .multipart_form import UploadedFile, read_form
from .responses import CaptionForm
from .spool import QuestionFiles

_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "question": str,
    "system": str,
    "max_tokens": int,
    "temperature": float,
    "num_frames": int,
    "stream": lambda text: _FLAGS[text.lower()],
}


async def read_caption(context: Context, request: Request, files: QuestionFiles) -> Asked:
    """See `endpoint.Reader`."""
    check_headers(request.headers, "multipart/form-data")
    with context.bodies.share() as share:
        form = await read_form(request, context.settings.limits, share, files)
    _check_files(form.files)
    ask = _ask(form.files, _values(form.fields), context)
    return Asked(ask, CaptionForm(", ".join(file.name for file in form.files)))


def _ask(files: Sequence[UploadedFile], values: Mapping[str, Any], context: Context) -> Ask:
    model = context.settings.model
    media = {"video": {"num_frames": values.get("num_frames")}}
    fields = Fields({**values, "media_io_kwargs": media})
    question, system = fields.text("question") or "", fields.text("system")
    if len(question) + len(system or "") > MOST_CHARACTERS:
        raise fields.error("question", f"and system have more than {MOST_CHARACTERS} characters")
    return Ask(
        id=next(context.ids),
        question=question if question.strip() else model.question,
        options=generation_options(fields, model, context.settings.limits),
        system=system,
        media=_paths(files, model),
        sampling=video_sampling(video_options(fields, model), model),
        streams=fields.flag("stream"),
    )


def _paths(files: Sequence[UploadedFile], model: ServedModel) -> tuple[str, ...]:
    paths = tuple(str(file.path) for file in files)
    if len(paths) > 1 and model.images_are_frames:
        return tuple(paths[index] for index in kept(len(paths), 0.0, model.sampling).indices)
    return paths


def _values(texts: Mapping[str, str]) -> dict[str, Any]:
    """The fields of the form in their types. An empty field counts as absent."""
    values: dict[str, Any] = {}
    for name, text in texts.items():
        parser = _PARSERS.get(name)
        if parser is None:
            known = ", ".join(("file", *_PARSERS))
            path = name[:100]
            raise RequestError(f"there is no field {path!r}; there are {known}", path, "unsupported_parameter")
        if not text and name != "system":
            continue
        try:
            values[name] = parser(text)
        except (KeyError, ValueError):
            raise RequestError(f"{name} can't be {text[:40]!r}", name, "invalid_value") from None
    return values


def _check_files(files: Sequence[UploadedFile]) -> None:
    if not files:
        raise RequestError("the form has no file; send one as the field file", "file", "missing_file")
    for file in files:
        if file.field != "file":
            raise RequestError(f"a file is in the field {file.field[:40]!r}; use file", file.field[:40], "invalid_form")
        if not file.path.stat().st_size:
            raise RequestError(f"the file {file.name!r} is empty", "file", "invalid_media")
        if len(files) > 1 and _is_video(file.path, file.name):
            raise RequestError(
                "the form has a video and other files; send one video, or images", "file", "invalid_media"
            )


def _is_video(path: Path, name: str) -> bool:
    return file_kind(str(path), name) == VIDEO
