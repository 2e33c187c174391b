"""Reads a form with files (multipart/form-data); the files go to disk while they are received.

Knows neither the names of the fields nor what the files are.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from ..settings import RequestLimits
from .bodies import Share, body_pieces
from .errors import RequestError
from .fields import checked_text
from .messages import MOST_CHARACTERS
from .spool import QuestionFiles

_MOST_FIELDS = 32
_WRITE_SIZE = 2**18
"""So many bytes are collected before a thread writes them."""
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")


@dataclass(frozen=True)
class UploadedFile:
    """field: its name. name: of the file, as the client sent it. path: of the copy."""

    field: str
    name: str
    path: Path


@dataclass(frozen=True)
class Form:
    files: tuple[UploadedFile, ...]
    fields: Mapping[str, str]


async def read_form(request: Request, limits: RequestLimits, share: Share, files: QuestionFiles) -> Form:
    """Read the form of a request.

    share: see `body_pieces`.

    Raises:
        RequestError: not such a form; too many files or fields, or too large; no room (503); as `body_pieces`.
        ClientGone: the client closed the connection.
    """
    _, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if not boundary:
        raise _bad("the Content-Type has no boundary")
    receiver = _Receiver(limits.images, files)
    try:
        parser = MultipartParser(boundary, receiver.callbacks())  # type: ignore[arg-type]
        async for piece in body_pieces(request.headers, request.receive, limits, share):
            parser.write(piece)
            if receiver.pending_size >= _WRITE_SIZE:
                await asyncio.to_thread(receiver.flush)
        await asyncio.to_thread(receiver.flush)
    except FormParserError as error:
        raise _bad(str(error)) from None
    finally:
        receiver.close()
    if not receiver.has_ended:
        raise _bad("it ends before its last boundary")
    return Form(tuple(receiver.files), receiver.fields)


@dataclass
class _Part:
    """The part that is being received. file: None if it is a field."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    header: bytes = b""
    value: bytes = b""
    name: str = ""
    file: BinaryIO | None = None
    data: bytearray = field(default_factory=bytearray)


class _Receiver:
    """Takes the calls of the parser."""

    def __init__(self, most_files: int, files: QuestionFiles) -> None:
        self.files: list[UploadedFile] = []
        self.fields: dict[str, str] = {}
        self.has_ended = False
        self.pending_size = 0
        self._pending: list[tuple[BinaryIO, bytes]] = []
        self._open: list[BinaryIO] = []
        self._most_files = most_files
        self._spool = files
        self._part = _Part()

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._form_end,
        }

    def flush(self) -> None:
        """Write what was received. May run in a thread, while the parser gets no data."""
        for file, data in self._pending:
            file.write(data)
        self._pending.clear()
        self.pending_size = 0

    def close(self) -> None:
        for file in self._open:
            file.close()

    def _begin(self) -> None:
        self._part = _Part()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._part.header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.value += data[start:end]

    def _header_end(self) -> None:
        part = self._part
        part.headers[part.header.lower()] = part.value
        part.header = part.value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._part.headers.get(b"content-disposition"))
        if b"name" not in options:
            raise _bad("a part has no name in its Content-Disposition")
        self._part.name = _decoded(options[b"name"])
        if b"filename" in options:
            self._open_file(_decoded(options[b"filename"]))
        elif self._part.name in self.fields or len(self.fields) >= _MOST_FIELDS:
            raise _bad(f"the field {self._part.name[:40]!r} occurs twice, or there are more than {_MOST_FIELDS} fields")

    def _open_file(self, name: str) -> None:
        if len(self.files) >= self._most_files:
            raise RequestError(f"the server takes at most {self._most_files} files", "file", "too_many_images")
        suffix = Path(name).suffix
        path = self._spool.new_path(suffix if _SUFFIX.fullmatch(suffix) else "")
        self._part.file = open(path, "xb")  # noqa: SIM115 - closed by `close`
        self._open.append(self._part.file)
        self.files.append(UploadedFile(self._part.name, name, path))

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._part.file is None:
            self._part.data += data[start:end]
            if len(self._part.data) > 4 * MOST_CHARACTERS:
                raise RequestError(f"{self._part.name[:40]} is too long", self._part.name[:40], "invalid_value")
            return
        self._spool.reserve(end - start)
        self._pending.append((self._part.file, data[start:end]))
        self.pending_size += end - start

    def _end(self) -> None:
        if self._part.file is None:
            self.fields[self._part.name] = _decoded(bytes(self._part.data))

    def _form_end(self) -> None:
        self.has_ended = True


def _decoded(data: bytes) -> str:
    try:
        return checked_text(data.decode("utf-8"), "a field of the form")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _bad(why: str) -> RequestError:
    return RequestError(f"the body can't be read as multipart/form-data: {why}", None, "invalid_form")
