"""If a decoding process hangs or dies, only its clip fails."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from pipeline.captioning.clips import loader as loader_module
from pipeline.captioning.clips.clip import Clip, ClipTask, LoadFailure
from pipeline.captioning.clips.decode_client import DecodeClient
from pipeline.captioning.clips.downloads.hosts import Hosts
from pipeline.captioning.clips.killable import DecoderLimits
from pipeline.captioning.clips.loader import ClipLoader
from pipeline.captioning.clips.preparation import FramePreparation
from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.process.limited_log import LimitedLog
from tests.fakes import mean_colour, render_clip, segments


def _hang_on_tall(images: Sequence[Image.Image]) -> np.ndarray:
    """Hangs on clips that are higher than wide, in C code that holds the interpreter lock, as decord can."""
    if images[0].height > images[0].width:
        ctypes.PyDLL(None).sleep(3600)
    return mean_colour(images)


def _die_on_tall(images: Sequence[Image.Image]) -> np.ndarray:
    if images[0].height > images[0].width:
        os.kill(os.getpid(), signal.SIGSEGV)
    return mean_colour(images)


def _raise(images: Sequence[Image.Image]) -> np.ndarray:
    raise ValueError("larger than 64 megapixels")


def _rows(folder: Path) -> list[ClipTask]:
    sizes = [(96, 64), (64, 96), (96, 64)]
    return [ClipTask(i, str(render_clip(folder / f"{i}.mp4", i, size=size))) for i, size in enumerate(sizes)]


def test_clips_come_in_order_with_their_rows(tmp_path: Path) -> None:
    rows = [ClipTask(7, _rows(tmp_path)[0][1]), ClipTask(3, "missing.mp4"), ClipTask(5, str(tmp_path / "1.mp4"))]
    with ClipLoader(rows, FramePreparation(segments(2), mean_colour), DecoderLimits(20), prefetch=1) as loader:
        clips = list(loader)
    assert [clip.row for clip in clips] == [7, 3, 5]
    assert [isinstance(clip, LoadFailure) for clip in clips] == [False, True, False]
    assert (clips[1].stage, "no such file" in clips[1].messages[0]) == ("path", True)


@pytest.mark.parametrize(
    ("transform", "timeout", "message"), [(_hang_on_tall, 3, "no answer within 3 s"), (_die_on_tall, 30, "signal 11")]
)
def test_a_hang_or_a_crash_fails_one_clip(tmp_path: Path, transform, timeout: float, message: str) -> None:  # type: ignore[no-untyped-def]
    rows = _rows(tmp_path)
    begin = time.monotonic()
    with ClipLoader(rows, FramePreparation(segments(2), transform), DecoderLimits(timeout), prefetch=1) as loader:
        clips = list(loader)
    assert [isinstance(clip, LoadFailure) for clip in clips] == [False, True, False]
    assert message in " ".join(clips[1].messages)
    assert time.monotonic() - begin < 150


@dataclass(frozen=True)
class _Killed:
    """A transform that kills its process, as from outside, during the first `times` calls."""

    folder: Path
    times: int

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        kills = len(list(self.folder.glob("kill *")))
        if kills < self.times:
            (self.folder / f"kill {kills}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return mean_colour(images)


def test_after_a_kill_from_outside_the_clip_is_decoded_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By the same decoder, so that frames and messages are those of an undisturbed run."""
    rows = _rows(tmp_path)[:1]
    with ClipLoader(rows, FramePreparation(segments(2), _Killed(tmp_path, 1)), DecoderLimits(20), prefetch=1) as loader:
        assert isinstance(next(iter(loader)), Clip)
    assert not caplog.records
    with ClipLoader(
        rows, FramePreparation(segments(2), _Killed(tmp_path, 99)), DecoderLimits(20), prefetch=1
    ) as loader:
        clip = next(iter(loader))
    assert [message.split(": ")[1] for message in clip.messages] == ["its process died (signal 9)"] * len(clip.messages)
    assert clip.messages


def test_a_process_killed_while_idle_is_replaced_silently(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    decoder = DecodeClient(
        FramePreparation(segments(2), mean_colour),
        DecoderLimits(20),
        LimitedLog(logging.getLogger(), "no file"),
        Hosts(),
    )
    path = _rows(tmp_path)[0][1]
    try:
        for _ in range(2):
            frames, reply = decoder.decode(path, threading.Event())
            assert frames is not None and not reply.messages
            process = decoder._process
            assert process is not None
            process.kill()
            process.join()
    finally:
        decoder.kill()
    assert not caplog.records


def test_a_transform_that_raises_is_a_failure_of_its_own_stage(tmp_path: Path) -> None:
    with ClipLoader(
        _rows(tmp_path)[:1], FramePreparation(segments(2), _raise), DecoderLimits(20), prefetch=1
    ) as loader:
        clip = next(iter(loader))
    assert (clip.stage, clip.messages) == ("prepare", ("ValueError: larger than 64 megapixels",))


def _leak(images: Sequence[Image.Image]) -> np.ndarray:
    _leaked.append(b"x" * 2**27)
    return mean_colour(images)


def _leak_without_end_on_tall(images: Sequence[Image.Image]) -> np.ndarray:
    while images[0].height > images[0].width:
        _leaked.append(b"x" * 2**24)
        time.sleep(0.01)
    return mean_colour(images)


_leaked: list[bytes] = []


def _process_id(images: Sequence[Image.Image]) -> np.ndarray:
    return np.array([os.getpid()])


def _many(folder: Path, count: int) -> list[ClipTask]:
    return [ClipTask(i, str(render_clip(folder / f"{i}.mp4", i, frames=3))) for i in range(count)]


def _pids(clips: Sequence[Clip | LoadFailure]) -> list[int]:
    return [int(clip.frames[0]) for clip in clips if isinstance(clip, Clip)]


def test_processes_are_replaced_after_a_number_of_clips(tmp_path: Path) -> None:
    limits = DecoderLimits(20, clips=2)
    with ClipLoader(_many(tmp_path, 5), FramePreparation(segments(2), _process_id), limits, prefetch=1) as loader:
        pids = _pids(list(loader))
    assert [pids[i] == pids[i + 1] for i in range(4)] == [True, False, True, False]


def test_a_process_that_grows_is_replaced_and_no_clip_fails(tmp_path: Path) -> None:
    limits = DecoderLimits(20, memory=600 * 2**20)
    with ClipLoader(_many(tmp_path, 8), FramePreparation(segments(2), _leak), limits, prefetch=1) as loader:
        assert all(isinstance(clip, Clip) for clip in loader)


def test_a_clip_that_takes_too_much_memory_fails_alone(tmp_path: Path) -> None:
    limits = DecoderLimits(60, memory=600 * 2**20)
    with ClipLoader(
        _rows(tmp_path), FramePreparation(segments(2), _leak_without_end_on_tall), limits, prefetch=1
    ) as loader:
        clips = list(loader)
    assert [isinstance(clip, LoadFailure) for clip in clips] == [False, True, False]
    assert "took more than 0.6 GiB of memory" in clips[1].messages[0]


def test_one_hanging_clip_does_not_delay_the_others(tmp_path: Path) -> None:
    tall = render_clip(tmp_path / "tall.mp4", size=(64, 96))
    rows = [ClipTask(9, str(tall)), *_many(tmp_path, 6)]
    with ClipLoader(
        rows, FramePreparation(segments(2), _hang_on_tall), DecoderLimits(4), prefetch=8, workers=2
    ) as loader:
        order = [clip.row for clip in loader]
    assert sorted(order) == [0, 1, 2, 3, 4, 5, 9] and order[-1] == 9


def test_large_frames_are_complete(tmp_path: Path) -> None:
    with ClipLoader(
        _many(tmp_path, 4), FramePreparation(segments(2), _large), DecoderLimits(20), prefetch=1, workers=2
    ) as loader:
        for clip in loader:
            assert isinstance(clip, Clip) and clip.frames.shape == (2, 1100, 1100, 3)
            np.testing.assert_array_equal(clip.frames, _large([None, None]))  # type: ignore[list-item]


def _large(images: Sequence[Image.Image]) -> np.ndarray:
    frame = np.random.default_rng(0).integers(0, 256, (1, 1100, 1100, 3), np.uint8)
    return np.repeat(frame, len(images), 0)


def _memory_files() -> int:
    links = [os.path.join("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd")]
    return sum("clip-frames" in os.readlink(link) for link in links if os.path.islink(link))


def test_leaving_early_leaves_no_process(tmp_path: Path) -> None:
    before = {child.pid for child in psutil.Process().children()}
    with ClipLoader(
        _rows(tmp_path), FramePreparation(segments(2), mean_colour), DecoderLimits(20), prefetch=1
    ) as loader:
        next(iter(loader))
    left = {child.pid for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())}
    assert not left - before
    assert _memory_files() == 0


def test_leaving_takes_one_deadline_for_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader closes soon even if its rows do not come, for example because rank 0 is out of reach."""
    monkeypatch.setattr(loader_module, "_LEAVE_SECONDS", 0.5)
    begin = time.monotonic()
    with ClipLoader(
        iter(lambda: time.sleep(60), 0),  # type: ignore[arg-type]
        FramePreparation(segments(2), mean_colour),
        DecoderLimits(20),
        prefetch=1,
        workers=4,
    ):
        time.sleep(0.1)
    assert time.monotonic() - begin < 30


def _sizes(images: Sequence[Image.Image]) -> np.ndarray:
    return np.array([image.size for image in images])


def test_clips_carry_the_times_and_the_size_of_their_frames(tmp_path: Path) -> None:
    video = render_clip(tmp_path / "a.mp4", frames=21)  # 8 frames per second, 96 x 64
    Image.new("RGB", (30, 40)).save(tmp_path / "b.png")
    sampling = FrameSampling("rate", 0, 2.0, multiple=2)
    rows = [ClipTask(0, str(video)), ClipTask(1, str(tmp_path / "b.png"))]
    with ClipLoader(rows, FramePreparation(sampling, _sizes), DecoderLimits(20), prefetch=1) as loader:
        clip, image = loader
    assert isinstance(clip, Clip) and isinstance(image, Clip)
    assert (clip.seconds, clip.duration, clip.size) == ((0.0, 0.875, 1.625, 2.5), 2.625, (64, 96))
    assert (image.seconds, image.duration, image.size, image.is_image) == ((0.0,), 0.0, (40, 30), True)
    assert (clip.rate, image.rate) == (8.0, 0.0)
    assert (clip.frame_index, image.frame_index) == ((0, 1, 2, 3), (0,))


def test_frames_are_scaled_before_the_transform(tmp_path: Path) -> None:
    with ClipLoader(
        _rows(tmp_path), FramePreparation(segments(2), _sizes, 32), DecoderLimits(20), prefetch=1
    ) as loader:
        clips = [clip for clip in loader if isinstance(clip, Clip)]
    assert [clip.frames.tolist() for clip in clips] == [[[48, 32]] * 2, [[32, 48]] * 2, [[48, 32]] * 2]
    assert [clip.size for clip in clips] == [(32, 48), (48, 32), (32, 48)]


def _one_megabyte(images: Sequence[Image.Image]) -> np.ndarray:
    return np.zeros((len(images), 2**20 // 2), np.uint8)


@pytest.mark.parametrize(("prefetch", "least", "ahead"), [(9, 2, 3), (9, 5, 5), (1, 5, 2)])
def test_large_clips_are_decoded_ahead_up_to_a_number_of_bytes(
    tmp_path: Path, prefetch: int, least: int, ahead: int
) -> None:
    """Three clips of one megabyte fit. A batch is decoded ahead in any case, but no more clips than usual."""
    path, taken = str(render_clip(tmp_path / "a.mp4")), []

    def rows() -> Iterator[ClipTask]:
        for row in range(9):
            taken.append(row)
            yield ClipTask(row, path)

    with ClipLoader(
        rows(),
        FramePreparation(segments(2), _one_megabyte),
        DecoderLimits(20),
        prefetch,
        prefetch_bytes=7 * 2**19,
        prefetch_least=least,
    ) as loader:
        for consumed in range(3):
            deadline = time.monotonic() + 30
            while len(taken) < consumed + ahead and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(0.1)  # another clip would be decoded in less
            assert len(taken) == consumed + ahead
            clip = loader.next_clip()
            assert isinstance(clip, Clip) and clip.frames.nbytes == 2**20
        assert len(list(loader)) == 6 and len(taken) == 9
