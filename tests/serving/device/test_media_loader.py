"""Media of questions as the loader gives them, from real decoding processes."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.captioning.clips.decode_client import DecodeClient
from pipeline.captioning.clips.downloads.limits import DownloadLimits
from pipeline.captioning.clips.killable import DecoderLimits, StartError
from pipeline.captioning.clips.preparation import FramePreparation
from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.serving.device import media, media_loader
from pipeline.serving.device.media_loader import Loaded, MediaLoader, NotLoaded
from pipeline.serving.messages import Ask
from tests.captioning.clips.downloads.servers import content, status, web_server
from tests.fakes import mean_colour, render_clip

SECONDS = 60.0
SAMPLING = FrameSampling("uniform", 4, multiple=2)
ABOUT_IMAGES = (0,), (0.0,), 0.0, 0.0, True
"""What `Results.clips` gives about a still image besides its values."""


def image_colour(images: Sequence[Image.Image]) -> np.ndarray:
    """The transform of still images: the values of frames, with a zero before each."""
    return np.pad(mean_colour(images), ((0, 0), (1, 0)))


def several_colour(images: Sequence[Image.Image]) -> np.ndarray:
    """The transform of several still images: the values of frames, with a 7 before each."""
    return np.pad(mean_colour(images), ((0, 0), (1, 0)), constant_values=7)


class Results:
    """What a loader gives."""

    def __init__(self, images_are_frames: bool = False, workers: int = 1, ahead: int = 4) -> None:
        self.queue: queue.SimpleQueue[Loaded | NotLoaded | Exception] = queue.SimpleQueue()
        preparation = FramePreparation(
            SAMPLING, mean_colour, image_transform=image_colour, several_transform=several_colour
        )
        limits = DecoderLimits(SECONDS, download=DownloadLimits(same_host=True))
        self.loader = MediaLoader(preparation, images_are_frames, limits, workers, ahead, self.queue.put)

    def next(self) -> Loaded | NotLoaded:
        result = self.queue.get(timeout=SECONDS)
        assert not isinstance(result, Exception), result
        self.loader.forget(result.ask.id)
        return result

    def load(self, *media: object, **about: object) -> Loaded | NotLoaded:
        self.loader.add(asked(1, *media, **about))
        return self.next()

    def clips(self, *media: object, **about: object) -> Sequence[object]:
        result = self.load(*media, **about)
        assert isinstance(result, Loaded), result
        return [
            (clip.frames.tolist(), clip.frame_index, clip.seconds, clip.duration, clip.rate, clip.is_image)
            for clip in result.clips
        ]

    def problem(self, *media: object, **about: object) -> str:
        result = self.load(*media, **about)
        assert isinstance(result, NotLoaded), result
        return "; ".join(result.messages)


def asked(number: int, *media: object, **about: object) -> Ask:
    return Ask(number, "?", GenerationOptions(), media=tuple(map(str, media)), **about)  # type: ignore[arg-type]


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def results() -> Iterator[Results]:
    results = Results()
    yield results
    results.loader.close()


@pytest.fixture(scope="module")
def frames_results() -> Iterator[Results]:
    results = Results(images_are_frames=True)
    yield results
    results.loader.close()


def image(path: Path, grey: int, size: tuple[int, int] = (32, 24)) -> Path:
    Image.new("RGB", size, (grey, grey, grey)).save(path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return [image(tmp_path / f"{grey}.png", grey) for grey in (10, 20, 30)]


def test_several_images_are_still_images_or_the_frames_of_one_clip(
    results: Results, frames_results: Results, images: list[Path]
) -> None:
    assert results.clips(*images) == [([[7, grey, grey, grey]], *ABOUT_IMAGES) for grey in (10, 20, 30)]
    alone = [([[0, 10, 10, 10]], *ABOUT_IMAGES)]
    assert results.clips(images[0]) == frames_results.clips(images[0]) == alone
    colours = [[grey] * 3 for grey in (10, 20, 30)]
    zeros = (0.0,) * 4
    as_frames = [(colours, (0, 1, 2, 2), zeros, 0.0, 0.0, False)]
    assert results.clips(*images, are_frames=True) == frames_results.clips(*images) == as_frames
    with_times = [(colours, (0, 1, 2, 2), (0.0, 0.5, 1.0, 1.0), 1.5, 2.0, False)]
    assert results.clips(*images, are_frames=True, frame_rate=2.0) == with_times
    assert results.clips(images[0], are_frames=True) == [(colours[:1], (0, 0), (0.0, 0.0), 0.0, 0.0, False)]


def test_a_question_may_choose_the_frames_of_a_video(results: Results, tmp_path: Path) -> None:
    path = render_clip(tmp_path / "a.mp4", frames=8)
    (four,), (two,) = results.clips(path), results.clips(path, sampling=FrameSampling("uniform", 2))
    assert isinstance(four, tuple) and isinstance(two, tuple)
    assert four[2] == (0.0, 0.25, 0.5, 0.875) and two[2] == (0.0, 0.875)
    assert two[0] == [four[0][0], four[0][-1]]
    (again,) = results.clips(path)
    assert again == four, "the choice does not stay"


def test_an_animation_is_a_video_of_its_own(results: Results, tmp_path: Path, images: list[Path]) -> None:
    frames = [Image.open(path) for path in images]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    ((values, index, *_, is_image),) = results.clips(path)  # type: ignore[misc]
    assert len(index) == 4 and not is_image and len(values) == 3
    for about in ({}, {"are_frames": True}):
        problem = results.problem(images[0], path, **about)
        assert problem == "image 2 is a video or an animation; send one video alone, or still images"


def test_problems_name_the_item_and_no_local_path(
    results: Results, frames_results: Results, tmp_path: Path, images: list[Path]
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(images[0].read_bytes()[:40])
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for problem, name in (
        (results.problem(images[0], broken), "image 2"),
        (results.problem(tmp_path / "broken.mp4"), "the file"),
        (results.problem(tmp_path / "missing.mp4"), "the file: no such file"),
    ):
        assert problem.startswith(name) and str(tmp_path) not in problem
    assert frames_results.problem(*images, *images).startswith("6 images are the frames of one video, but at most 4")
    other = image(tmp_path / "other.png", 9)
    assert isinstance(frames_results.load(images[0], other), Loaded)


def hang(images: Sequence[Image.Image]) -> np.ndarray:
    """A transform that hangs with a black image."""
    if np.asarray(images[0]).max() == 0:
        time.sleep(1000)
    return mean_colour(images)


def test_a_hanging_decoder_ends_with_its_question(tmp_path: Path, images: list[Path]) -> None:
    ended: queue.SimpleQueue[Loaded | NotLoaded | Exception] = queue.SimpleQueue()
    loader = MediaLoader(FramePreparation(SAMPLING, hang), False, DecoderLimits(1000), 1, 4, ended.put)
    try:
        loader.add(asked(7, image(tmp_path / "black.png", 0)))
        loader.add(asked(8, images[1]))
        loader.add(asked(9, images[2]))
        loader.forget(8)
        wait_until(lambda: loader._jobs[7].is_begun)
        loader.forget(7)
        result = ended.get(timeout=SECONDS)
        assert isinstance(result, Loaded) and result.ask.id == 9
        assert result.clips[0].frames.tolist() == [[30, 30, 30]]
    finally:
        loader.close()


def test_urls_are_downloaded_and_stay_on_their_host(images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    results = Results()
    try:
        with web_server() as web, web_server() as other:
            data = images[1].read_bytes()
            stills = [results.clips(web.url("/b.png?token=s3cret", content(data))), results.clips(images[1])]
            assert stills[0] == stills[1]
            away = web.url("/c.png", status(302, Location=other.url("/b.png", content(data))))
            problem = results.problem(images[0], away)
            assert problem.startswith("image 2: the server redirects to another host, 127.0.0.1:")
            assert not other.requests
    finally:
        results.loader.close()


def test_only_some_questions_are_decoded_ahead(tmp_path: Path, images: list[Path]) -> None:
    results = Results(workers=2, ahead=3)
    try:
        for number in range(20):
            results.loader.add(asked(number, images[0]))
        wait_until(lambda: results.queue.qsize() == 5)
        first = [results.queue.get(timeout=SECONDS) for _ in range(5)]
        assert results.queue.empty() and sum(job.is_begun for job in results.loader._jobs.values()) == 5
        for result in first:
            assert isinstance(result, Loaded)
            results.loader.forget(result.ask.id)
        rest = {results.next().ask.id for _ in range(15)}
        assert rest == set(range(20)) - {result.ask.id for result in first if isinstance(result, Loaded)}
    finally:
        results.loader.close()


class FakeClient:
    """In place of a decoding process; starts only if `may_start`."""

    may_start = True

    def __init__(self, *_: object) -> None:
        self.is_killed = False

    def start_if_needed(self, _: threading.Event) -> None:
        if not self.may_start:
            raise StartError("no memory")

    def kill(self) -> None:
        self.is_killed = True

    def close(self) -> None:
        pass


class Clip:
    """As many bytes as its path says."""

    def __init__(self, path: str) -> None:
        self.frames = np.broadcast_to(np.zeros((), np.uint8), int(path))


Load = Callable[..., tuple[Clip, ...]]


@pytest.fixture
def loader_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Results]]:
    """Loaders without decoding processes."""
    made: list[Results] = []

    def make(load: Load, workers: int = 1, ahead: int = 4) -> Results:
        monkeypatch.setattr(media_loader, "DecodeClient", FakeClient)
        monkeypatch.setattr(media_loader, "load_media", load)
        made.append(Results(workers=workers, ahead=ahead))
        return made[-1]

    yield make
    for results in made:
        results.loader.close()


def by_size(client: DecodeClient, preparation: FramePreparation, ask: Ask, *_: object) -> tuple[Clip, ...]:
    return (Clip(ask.media[0]),)


def test_a_large_question_does_not_limit_those_after_it(loader_of: Callable[..., Results]) -> None:
    results = loader_of(by_size, ahead=8)
    assert isinstance(results.load(media_loader.AHEAD_BYTES), Loaded)
    for number in range(5):
        results.loader.add(asked(number, 10))
    wait_until(lambda: results.queue.qsize() == 5)


def test_a_decoding_process_that_does_not_start_leaves_its_question_to_the_others(
    loader_of: Callable[..., Results],
) -> None:
    broken: list[object] = []

    def load(client: DecodeClient, *about: object) -> tuple[Clip, ...]:
        if not broken:
            broken.append(client)
        if client is broken[0]:
            raise StartError("no memory")
        return by_size(client, *about)  # type: ignore[arg-type]

    results = loader_of(load, workers=2)
    assert isinstance(results.load(10), Loaded) and isinstance(results.load(10), Loaded)
    broken[:] = []
    results.loader.add(asked(1, 10))
    assert isinstance(results.queue.get(timeout=SECONDS), StartError), "none is left"


def test_an_unexpected_error_costs_its_question(loader_of: Callable[..., Results]) -> None:
    clients = []

    def load(client: FakeClient, preparation: FramePreparation, ask: Ask, *_: object) -> tuple[Clip, ...]:
        clients.append(client)
        return (Clip(ask.media[0]),)

    results = loader_of(load)
    assert "(ValueError)" in results.problem("no number") and clients[0].is_killed
    assert isinstance(results.load(10), Loaded)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "PyAV: no answer within 2 s (--decode_timeout); its process was killed",
            "PyAV: no answer within 2 s (the server's time limit for decoding); its process was killed",
        ),
        (
            "no download within 2 s (--download_timeout), 1 attempt",
            "(the server's time limit for downloads), 1 attempt",
        ),
        ("more than --max_download 1,000 bytes", "more than the server's limit of 1,000 bytes"),
        ("/private/a.mp4: no frames", "the file: no frames"),
    ],
)
def test_messages_for_clients_name_no_flag(message: str, expected: str) -> None:
    found = media._for_clients(message, "/private/a.mp4")
    assert found.endswith(expected) and "--" not in found
