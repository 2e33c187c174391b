"""Weight files are found by name or index, and their values are exact."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.captioning.captioners.safetensors_files import read_header, stored_tensors
from pipeline.captioning.errors import UsageError


def test_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    values = np.array([1.0, -3.5, 1e38, 2.0**-126], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
    file = tmp_path / "a.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bits.tobytes())
    expected = (bits.astype(np.uint32) << 16).view(np.float32).reshape(2, 2)
    np.testing.assert_array_equal(read_header(file)[0].read_float32(), expected)


def test_an_index_names_the_files(tmp_path: Path) -> None:
    for name in ("a", "b", "unlisted"):
        save_file({name: np.ones(2, np.float32)}, tmp_path / f"{name}.safetensors")
    assert [tensor.name for tensor in stored_tensors(tmp_path)] == ["a", "b", "unlisted"]
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"b": "b.safetensors", "a": "a.safetensors"}}))
    assert [tensor.name for tensor in stored_tensors(tmp_path)] == ["a", "b"]
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(UsageError, match=r"lacks b\.safetensors, which its index names"):
        stored_tensors(tmp_path)
    for damaged in ("{", "[]", '{"weight_map": []}'):
        index.write_text(damaged)
        with pytest.raises(UsageError, match=r"index\.json can't be read"):
            stored_tensors(tmp_path)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UsageError, match=r"no \.safetensors file \(pytorch_model\.bin is a pickle"):
        stored_tensors(tmp_path)
