"""Joins the parts of one answer, also if a device process sends it again. Knows nothing about processes."""

from __future__ import annotations

from ..messages import Text


class Differs(Exception):
    """A part does not go with the text that the client has received already."""


class AnswerText:
    """The text of one answer as far as the client has received it."""

    def __init__(self) -> None:
        self._text = ""

    def rest(self, begin: int, text: str) -> str:
        """The characters of a part that are new. begin: position of the part in the answer, in characters.

        Raises:
            Differs: the part leaves characters out, or repeats others than those that were sent.
        """
        sent = self._text[begin : begin + len(text)]
        if begin > len(self._text):
            raise Differs(f"its characters {len(self._text)} to {begin - 1} are missing")
        if text[: len(sent)] != sent:
            raise Differs("the answer was generated again, and it differs from the part that was sent already")
        return text[len(sent) :]

    def rest_of_whole(self, text: str) -> str:
        """As `rest`, for the whole answer."""
        if len(text) < len(self._text):
            raise Differs("the answer was generated again, and it is shorter than the part that was sent already")
        return self.rest(0, text)

    def append(self, id: int, text: str) -> Text:
        """Add new characters; returns them as a part of the answer to question `id`."""
        part = Text(id, len(self._text), text)
        self._text += text
        return part
