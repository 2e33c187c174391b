"""The decoding process as the worker uses it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.captioning.clips.decode_client import DecodeClient
from pipeline.captioning.clips.downloads.hosts import Hosts
from pipeline.captioning.clips.killable import DecoderLimits
from pipeline.captioning.clips.preparation import FramePreparation, ImageRole
from pipeline.captioning.process.limited_log import LimitedLog
from tests.fakes import mean_colour, render_clip, segments


def test_clips_that_no_decoder_can_decode_count_towards_the_limit_of_a_process(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_text("no video")
    good = str(render_clip(tmp_path / "good.mp4"))
    client = DecodeClient(
        FramePreparation(segments(2), mean_colour),
        DecoderLimits(60, clips=3),
        LimitedLog(logging.getLogger(), "no file"),
        Hosts(),
    )
    stopping = threading.Event()
    try:
        processes = []
        for path in (good, str(tmp_path / "broken.mp4"), str(tmp_path / "broken.mp4"), good):
            processes.append(client._process)
            frames, reply = client.decode(path, stopping)
            assert (frames is None) == (reply.stage == "decode") == ("broken" in path)
        assert processes[1] is processes[2] is not None
        assert processes[3] is None, "the process was ended after three clips"
    finally:
        client.kill()


def _hang_at_grey(images: Sequence[Image.Image]) -> np.ndarray:
    """A transform that hangs with a grey image."""
    if images[0].getpixel((0, 0)) == (128, 128, 128):
        time.sleep(1000)
    return mean_colour(images)


def test_a_request_that_is_stopped_leaves_no_reply_for_the_next_one(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (128, 128, 128)).save(tmp_path / "grey.png")
    Image.new("RGB", (8, 8), (9, 8, 7)).save(tmp_path / "next.png")
    preparation = FramePreparation(segments(2), _hang_at_grey)
    client = DecodeClient(preparation, DecoderLimits(1000), LimitedLog(logging.getLogger(), "no file"), Hosts())
    stopping = threading.Event()
    try:
        client.start_if_needed(stopping)
        threading.Timer(0.3, stopping.set).start()
        frames, _ = client.decode(str(tmp_path / "grey.png"), stopping)
        assert frames is None
        frames, _ = client.decode(str(tmp_path / "next.png"), threading.Event())
        assert frames is not None and frames.tolist() == [[9, 8, 7]]
    finally:
        client.close()


def _zeros(images: Sequence[Image.Image]) -> np.ndarray:
    return np.zeros((len(images), 5), np.uint8)


def _three(images: Sequence[Image.Image]) -> np.ndarray:
    return np.zeros((len(images), 1, 3), np.uint8)


def test_a_request_may_choose_its_frames_and_what_an_image_is(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (9, 8, 7)).save(tmp_path / "a.png")
    video = str(render_clip(tmp_path / "a.mp4"))
    preparation = FramePreparation(segments(2), mean_colour, image_transform=_zeros, several_transform=_three)
    client = DecodeClient(preparation, DecoderLimits(60), LimitedLog(logging.getLogger(), "no file"), Hosts())
    never = threading.Event()
    try:
        for sampling, count in ((None, 2), (segments(5), 5), (None, 2)):
            _, reply = client.decode(video, never, sampling=sampling)
            assert len(reply.frame_index) == count
        shapes = {ImageRole.ALONE: (1, 5), ImageRole.ONE_OF_SEVERAL: (1, 1, 3), ImageRole.FRAME: (1, 3)}
        for role, shape in shapes.items():
            frames, reply = client.decode(str(tmp_path / "a.png"), never, image_role=role)
            assert frames is not None and frames.shape == shape and reply.is_image
    finally:
        client.close()
