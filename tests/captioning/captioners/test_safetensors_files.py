"""Weight files are found by name or index, and their values are read exactly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.captioning.captioners.safetensors_files import SAMPLE_BYTES, read_header, samples, stored_tensors
from pipeline.captioning.process.errors import UsageError


def test_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    values = np.array([1.0, -3.5, 1e38, 2.0**-126], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
    file = tmp_path / "a.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bits.tobytes())
    expected = (bits.astype(np.uint32) << 16).view(np.float32).reshape(2, 2)
    np.testing.assert_array_equal(read_header(file)[0].read_float32(), expected)


def test_an_index_lists_the_files(tmp_path: Path) -> None:
    for name in ("a", "b", "unlisted"):
        save_file({name: np.ones(2, np.float32)}, tmp_path / f"{name}.safetensors")
    assert [tensor.name for tensor in stored_tensors(tmp_path)] == ["a", "b", "unlisted"]
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"b": "b.safetensors", "a": "a.safetensors"}}))
    assert [tensor.name for tensor in stored_tensors(tmp_path)] == ["a", "b"]
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(UsageError, match=r"lacks b\.safetensors, which its index lists"):
        stored_tensors(tmp_path)
    for damaged in ("{", "[]", '{"weight_map": []}'):
        index.write_text(damaged)
        with pytest.raises(UsageError, match=r"index\.json can't be read"):
            stored_tensors(tmp_path)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UsageError, match=r"no \.safetensors file \(pytorch_model\.bin is a pickle"):
        stored_tensors(tmp_path)


@pytest.mark.parametrize(("tensors", "size"), [(1, 70 * 10**9), (700, 10**8), (5000, 14 * 10**6), (3, 8), (0, 0)])
def test_samples_are_limited_for_checkpoints_of_any_size(tmp_path: Path, tensors: int, size: int) -> None:
    header = {
        str(number): {"dtype": "U8", "shape": [size], "data_offsets": [number * size, (number + 1) * size]}
        for number in range(tensors)
    }
    text = json.dumps(header).encode()
    file = tmp_path / "model.safetensors"
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(stream.tell() + tensors * size)  # a sparse file: the holes are read as zeros
    stored = stored_tensors(tmp_path)
    found = list(samples(stored))
    assert len(found) <= 2048 and sum(map(len, found)) <= 2048 * SAMPLE_BYTES
    assert len(found) >= min(tensors, 2048) and all(len(sample) >= min(size, SAMPLE_BYTES) for sample in found)


def test_samples_cover_every_part_of_a_tensor(tmp_path: Path) -> None:
    values = np.zeros(8 * 2**20, np.uint8)
    save_file({"w": values}, tmp_path / "model.safetensors")
    before = list(samples(stored_tensors(tmp_path)))
    assert b"".join(before) == values.tobytes(), "a tensor of 8 MiB must be read completely"
    larger = np.zeros(32 * 2**20, np.uint8)
    for part in range(16):  # each a sixteenth of the tensor
        larger[:] = 0
        larger[part * 2**21 : (part + 1) * 2**21] = 1
        save_file({"w": larger}, tmp_path / "model.safetensors")
        assert any(1 in sample for sample in samples(stored_tensors(tmp_path)))
