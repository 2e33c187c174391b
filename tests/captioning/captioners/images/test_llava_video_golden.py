"""`Square` on the frames of the public LLaVA-Video: the recorded pixel values, bit for bit.

They were recorded with Pillow 13, hence `vertical_first`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.captioning.captioners.images.square import Square
from tests.golden import SHARED, VIDEOS

FOLDER = SHARED / "golden" / "llava-video-a"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the shared recordings of LLaVA-Video")


def _cases() -> list[dict[str, Any]]:
    if not FOLDER.is_dir():
        return []
    cases: list[dict[str, Any]] = json.loads((FOLDER / "golden.json").read_text(encoding="utf-8"))["cases"]
    return cases


@pytest.fixture(scope="module")
def arrays() -> Any:
    return np.load(FOLDER / "golden.npz")


@pytest.fixture(scope="module")
def transform() -> Square:
    return Square.from_folder(FOLDER / "siglip", vertical_first=True)


def _channels_first(transform: Square, frame: np.ndarray) -> np.ndarray:
    """float32 (3, height, width)."""
    return transform.normalized(transform([Image.fromarray(frame)]))[0].transpose(2, 0, 1)


def _sha256(transform: Square, frames: np.ndarray) -> str:
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(np.ascontiguousarray(_channels_first(transform, frame)).tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("case", [case for case in _cases() if "frames_key" in case], ids=lambda case: case["name"])
def test_stored_frames(case: dict[str, Any], arrays: Any, transform: Square) -> None:
    frames = arrays[case["frames_key"]]
    assert len(frames) == case["frames_stored"]
    if len(frames) == case["num_frames"]:
        assert _sha256(transform, frames) == case["pixel_values"]["sha256"]
    for frame, mean in zip(frames, case["pixel_values"]["per_frame_mean"], strict=False):
        assert _channels_first(transform, frame).mean(dtype=np.float64) == pytest.approx(mean, abs=1e-6)
    if "resized_frame0_key" in case:
        resized = transform([Image.fromarray(frames[0])])[0].transpose(2, 0, 1)
        np.testing.assert_array_equal(resized, arrays[case["resized_frame0_key"]])


@pytest.mark.parametrize("case", _cases(), ids=lambda case: case["name"])
def test_decoded_frames(case: dict[str, Any], transform: Square) -> None:
    decord = pytest.importorskip("decord", reason="the recorded frames were decoded by decord")
    frames = decord.VideoReader(str(VIDEOS / case["video"]), num_threads=1).get_batch(case["frame_indices"]).asnumpy()
    assert [hashlib.sha256(frame.tobytes()).hexdigest() for frame in frames] == case["frame_sha256"]
    assert _sha256(transform, frames) == case["pixel_values"]["sha256"]
