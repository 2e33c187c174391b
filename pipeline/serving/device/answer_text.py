"""The text of an answer while its tokens arrive, piece by piece, up to a stop text.

Knows no model: it gets a function that converts token ids to text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"
"""What a decoder gives for bytes that are no whole character; the bytes that complete it may be in the next tokens."""


class AnswerText:
    """The text of one answer. All pieces that `add` and `finish` return are, joined, its final text.

    Text is given only when no later token can change it: a character of several tokens when it is complete, white space
    when text follows, and what may be the begin of a stop text when it is known not to be one. Tokens whose bytes are
    only parts of characters are converted together with the next token that is text by itself, because some decoders
    convert a sequence of bytes as a whole.

    to_text: the text of token ids, without white space at both ends.
    stops: texts that end the answer. The one whose end comes first counts; the answer is the text before it.
    """

    def __init__(self, to_text: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        self._to_text, self._stops = to_text, tuple(stop for stop in stops if stop)
        self._ids: list[int] = []
        self._window = 0  # from here on, tokens are converted again to find out what the next ones add
        self._base = ""  # the text of the window that is known already
        self._known = ""  # text that is known and not given yet: a stop text may begin in it
        self._is_lost = False  # a token has changed the text before it; only the whole answer is right
        self._given: list[str] = []
        self._length = 0
        self.is_stopped = False
        """Whether a stop text was found."""

    @property
    def text(self) -> str:
        """All pieces so far, joined."""
        return "".join(self._given)

    @property
    def length(self) -> int:
        """Number of characters of all pieces so far."""
        return self._length

    def add(self, ids: Sequence[int]) -> str:
        """The piece of text that further tokens complete; may be empty. ids: without the stop token."""
        if self.is_stopped:
            return ""
        begin = len(self._ids)
        self._ids += ids
        end = next((end for end in range(len(self._ids), begin, -1) if self._is_text(end)), None)
        if end is None or self._is_lost:
            return ""
        grown = self._to_text(self._ids[self._window : end])
        if not grown.startswith(self._base):
            self._is_lost = True
            return ""
        self._known += grown[len(self._base) :]
        self._window = end - 1
        self._base = self._to_text(self._ids[self._window : end])
        return self._give(self._end_of_certain())

    def finish(self, whole: str) -> str:
        """The last piece. whole: the text of the whole answer."""
        if self.is_stopped:
            return ""
        if whole.startswith(self.text):
            self._known = whole[self.length :]
        # Otherwise a token has changed text that was given. That can't be taken back, and no decoder is known to do it.
        return self._give(self._end_of_certain(is_end=True))

    def _is_text(self, end: int) -> bool:
        """Whether the token before position `end` is text by itself."""
        text = self._to_text(self._ids[end - 1 : end])
        return bool(text) and _INCOMPLETE not in text

    def _end_of_certain(self, is_end: bool = False) -> int:
        """The end of that part of the known text that can be given now."""
        found = [(at + len(stop), at) for stop in self._stops if (at := self._known.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            return min(found)[1]
        if is_end:
            return len(self._known)
        longest = max(map(len, self._stops), default=0)
        first = max(0, len(self._known) - longest + 1)
        held = (at for at in range(first, len(self._known)) if self._may_begin(self._known[at:]))
        return next(held, len(self._known))

    def _may_begin(self, text: str) -> bool:
        return any(stop.startswith(text) for stop in self._stops)

    def _give(self, end: int) -> str:
        piece, self._known = self._known[:end], self._known[end:]
        if piece:
            self._given.append(piece)
            self._length += len(piece)
        return piece
