"""The decoding process as the worker uses it."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from pipeline.captioning.clips.decode_client import DecodeClient
from pipeline.captioning.clips.downloads.hosts import Hosts
from pipeline.captioning.clips.killable import DecoderLimits
from pipeline.captioning.clips.preparation import FramePreparation
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
