"""Collectives on int32 arrays: those of MindSpore (HCCL on Ascend, its own on the CPU) or of torch.distributed.

All ranks must call a collective within seconds of each other (30 s on MindSpore's CPU backend). So call
`Heartbeat.barrier` first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

_BACKENDS = {"cuda": "nccl", "npu": "hccl", "cpu": "gloo"}


class Collectives(ABC):
    """The collectives of this process, with its `rank` and the `world_size`."""

    rank: int
    world_size: int

    @abstractmethod
    def all_gather(self, values: np.ndarray) -> np.ndarray:
        """The int32 (n,) of every rank as (world_size, n), in order of rank. `n` must be the same on all ranks."""

    @abstractmethod
    def close(self) -> None:
        """Leave the group of ranks. Call only after a run without errors."""


class SoloCollectives(Collectives):
    """For a single process without a launcher."""

    rank = 0
    world_size = 1

    def all_gather(self, values: np.ndarray) -> np.ndarray:
        return values[None]

    def close(self) -> None:
        pass


class MindSporeCollectives(Collectives):
    """MindSpore's collectives. The process must have joined the cluster: activating the backend under msrun does it."""

    def __init__(self) -> None:
        from mindspore import ops
        from mindspore.communication import get_group_size, get_rank

        self.rank, self.world_size = get_rank(), get_group_size()
        self._all_gather = ops.AllGather()

    def all_gather(self, values: np.ndarray) -> np.ndarray:
        import mindspore

        gathered = self._all_gather(mindspore.Tensor(np.ascontiguousarray(values, np.int32)))
        return gathered.asnumpy().reshape(self.world_size, -1)

    def close(self) -> None:
        pass  # MindSpore leaves its cluster when the process exits


class TorchCollectives(Collectives):
    """torch.distributed's collectives: NCCL for CUDA devices, HCCL for NPUs (part of torch_npu), gloo otherwise.

    device: in torch's notation, for example `cuda:1`.
    """

    def __init__(self, device: str) -> None:
        import torch.distributed as distributed

        distributed.init_process_group(_BACKENDS[device.partition(":")[0]])
        self.rank, self.world_size = distributed.get_rank(), distributed.get_world_size()
        self._device = device

    def all_gather(self, values: np.ndarray) -> np.ndarray:
        import torch
        import torch.distributed as distributed

        own = torch.from_numpy(np.ascontiguousarray(values, np.int32)).to(self._device)
        parts = [torch.empty_like(own) for _ in range(self.world_size)]
        distributed.all_gather(parts, own)
        return torch.stack(parts).cpu().numpy()

    def close(self) -> None:
        import torch.distributed as distributed

        distributed.destroy_process_group()
