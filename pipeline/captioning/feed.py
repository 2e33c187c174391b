"""The clips of a rank on their way from the loader into the captioner, and those it has in hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from .captioners.base import PreparedClip
from .clips.loader import ClipLoader, LoadedClip

_WAIT_SECONDS = 0.2
"""Between two looks at whether to stop."""


class LoaderFeed:
    """Feeds `count` clips of `loader`, then ends; see `captioners.base.ClipFeed`.

    on_start: called with clips before they are handed out the first time.
    on_failure: called with a clip that could not be loaded.
    is_stopping: says when to feed no more; what has not been handed out stays where it is.
    error: what one of them, or the loader, has raised, to be told from errors of the captioner.
    """

    def __init__(
        self,
        loader: ClipLoader,
        count: int,
        on_start: Callable[[Sequence[LoadedClip]], None],
        on_failure: Callable[[LoadedClip], None],
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._is_stopping = is_stopping
        self._loader, self._left = loader, count
        self._on_start, self._on_failure = on_start, on_failure
        self._waiting: deque[PreparedClip] = deque()
        self._in_hand: dict[int, PreparedClip] = {}
        self.error: BaseException | None = None

    @property
    def exhausted(self) -> bool:
        return not self.remaining

    @property
    def remaining(self) -> int:
        """Clips still to be handed out."""
        return 0 if self._is_stopping() else len(self._waiting) + self._left

    @property
    def wait_seconds(self) -> float:
        """How long clips have been waited for so far."""
        return self._loader.wait_seconds

    def take(self, limit: int, wait: bool) -> Sequence[PreparedClip]:
        try:
            clips = [self._waiting.popleft() for _ in range(min(limit, len(self._waiting), self.remaining))]
            clips += self._load(limit - len(clips), wait and not clips)
        except BaseException as error:
            self.error = error
            raise
        self._in_hand.update({clip.row: clip for clip in clips})
        return clips

    def _load(self, limit: int, wait: bool) -> list[PreparedClip]:
        """Clips that could be loaded."""
        loaded: list[LoadedClip] = []
        clips: list[PreparedClip] = []
        while len(clips) < limit and self._left and not self._is_stopping():
            must_wait = wait and not clips
            clip = self._loader.next_clip(_WAIT_SECONDS if must_wait else 0.0)
            if clip is None:
                if must_wait:
                    continue
                break
            self._left -= 1
            if clip.frames is None:
                self._on_failure(clip)
                continue
            loaded.append(clip)
            clips.append(PreparedClip(clip.row, clip.frames, clip.frame_index))
        if loaded:
            self._on_start(loaded)
        return clips

    def finish(self, row: int) -> None:
        """The captioner is done with this row."""
        del self._in_hand[row]

    def take_back(self) -> list[PreparedClip]:
        """All clips that the captioner has in hand: it has lost them."""
        clips = list(self._in_hand.values())
        self._in_hand.clear()
        return clips

    def give_again(self, clips: Sequence[PreparedClip]) -> None:
        """Feed these, taken back, before any other."""
        self._waiting.extendleft(reversed(clips))

    def apart(self, clips: Sequence[PreparedClip]) -> LoaderFeed:
        """A feed of these clips, taken back, alone."""
        feed = LoaderFeed(self._loader, 0, self._on_start, self._on_failure, self._is_stopping)
        feed.give_again(clips)
        return feed
