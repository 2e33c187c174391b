"""The PLLaVA model, built from transformers' CLIP and Llama modules.

Written with the torch API, so it runs on PyTorch, and on MindSpore through mindnlp. Parameter names are those of the
merged public checkpoints. Knows nothing about files, tokenizers and the generation loop.

Source of the behaviour: PLLaVA (Xu et al., 2024, arXiv:2404.16994) and its public implementation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM
from transformers.activations import ACT2FN

from ...generation.attention import UNMASKED_ATTENTION
from .configuration import PllavaConfig


class PllavaProjector(nn.Module):
    """Maps patch features (…, vision width) to the text model's width."""

    def __init__(self, vision_width: int, text_width: int, activation: str) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(vision_width, text_width)
        self.act = ACT2FN[activation]
        self.linear_2 = nn.Linear(text_width, text_width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(self.act(self.linear_1(features)))


class PllavaForConditionalGeneration(nn.Module):
    """Vision tower, projector and text model.

    The vision tower contains only the layers that are run. PLLaVA uses the output of an inner layer, so CLIP's last
    normalisation is not applied.
    """

    def __init__(self, config: PllavaConfig) -> None:
        super().__init__()
        self.config = config
        vision_config = CLIPVisionConfig(**{**config.vision, "num_hidden_layers": config.vision_layers})
        text_config = LlamaConfig(**config.text)
        for part in (vision_config, text_config):
            part._attn_implementation = UNMASKED_ATTENTION
        self.vision_tower = CLIPVisionModel(vision_config)
        self.vision_tower.vision_model.post_layernorm = nn.Identity()
        self.multi_modal_projector = PllavaProjector(
            vision_config.hidden_size, text_config.hidden_size, config.projector_activation
        )
        self.language_model = LlamaForCausalLM(text_config)

    def pixel_values(self, frames: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
        """Normalise uint8 frames (frames, height, width, 3) to (frames, 3, height, width).

        The values are bit-identical to those of CLIP's processor in float32. Runs on the device, because the host needs
        10 times as long.
        """
        as_float32 = {"dtype": torch.float32, "device": frames.device}
        scaled = frames.to(torch.float32) / torch.tensor(255.0, **as_float32)
        values = (scaled - torch.tensor(mean, **as_float32)) / torch.tensor(std, **as_float32)
        return values.permute(0, 3, 1, 2).contiguous().to(self.multi_modal_projector.linear_1.weight.dtype)

    def frame_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Projected patches of frames (frames, 3, size, size) as (frames, patches, text width)."""
        tower = self.vision_tower.vision_model
        hidden = tower.pre_layrnorm(tower.embeddings(pixel_values))
        hidden = tower.encoder(inputs_embeds=hidden).last_hidden_state
        return self.multi_modal_projector(hidden[:, 1:])  # without the class token

    def frame_bytes(self, itemsize: int) -> int:
        """Bytes of the intermediate values of one frame in tower and projector: the largest set within one layer."""
        vision = self.config.vision
        widths = 4 * vision["hidden_size"] + 2 * vision["intermediate_size"] + 3 * self.config.text["hidden_size"]
        return self.config.patch_grid**2 * widths * itemsize

    def pooled_frames(self, pixel_values: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """Projected patches of frames (frames, 3, size, size), pooled in space: (frames, rows * columns, width)."""
        features = self.frame_features(pixel_values)
        grid = self.config.patch_grid
        # Adaptive average pooling is separable: one averaging matrix for each axis (mindnlp has no AdaptiveAvgPool3d).
        # `clip_tokens` pools the time axis later, so that a repeated frame is pooled in space only once.
        spatial = _like(np.kron(pooling_matrix(grid, rows), pooling_matrix(grid, columns)), features)
        return torch.bmm(spatial.expand(len(features), -1, -1), features)

    def clip_tokens(self, pooled: torch.Tensor, frame_index: Sequence[int], time: int) -> torch.Tensor:
        """Visual tokens of one clip, (time * rows * columns, text width), in the order time, row, column.

        pooled: the clip's distinct frames, (frames, rows * columns, text width).
        frame_index: for each sampled frame, in time order, its index in `pooled`.
        time: length of the pooled time axis.
        """
        select = np.eye(len(pooled), dtype=np.float32)[list(frame_index)]
        temporal = _like(pooling_matrix(len(frame_index), time) @ select, pooled)  # (time, frames)
        return torch.matmul(temporal, pooled.reshape(len(pooled), -1)).reshape(-1, pooled.shape[-1])


def _like(matrix: np.ndarray, tensor: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(matrix).to(device=tensor.device, dtype=tensor.dtype)


def pooling_matrix(size: int, pooled_size: int) -> np.ndarray:
    """Matrix (pooled_size, size) of adaptive average pooling along one axis, float32.

    Window i covers floor(i * size / pooled_size) up to ceil((i + 1) * size / pooled_size), exclusive, as in
    `AdaptiveAvgPool3d`. Windows overlap if size is not a multiple of pooled_size, and values repeat if pooled_size is
    larger than size.
    """
    matrix = np.zeros((pooled_size, size), np.float32)
    for i in range(pooled_size):
        begin, end = i * size // pooled_size, -(-(i + 1) * size // pooled_size)
        matrix[i, begin:end] = 1 / (end - begin)
    return matrix
