"""Collectives on int32 arrays: MindSpore's (HCCL on Ascend, its own on CPU) or torch.distributed's.

All ranks must call them together and within seconds of each other (30 s on MindSpore's CPU backend):
`Heartbeat.barrier` comes first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

_BACKENDS = {"cuda": "nccl", "npu": "hccl", "cpu": "gloo"}


class Collectives(ABC):
    """rank and world_size of this process, and what the ranks do together."""

    rank: int
    world_size: int

    @abstractmethod
    def all_gather(self, values: np.ndarray) -> np.ndarray:
        """Every rank's int32 (n,) as (world_size, n), in order of rank. `n` must be the same on all."""

    @abstractmethod
    def close(self) -> None:
        """Leave in good order."""


class SoloCollectives(Collectives):
    """One plain process."""

    rank = 0
    world_size = 1

    def all_gather(self, values: np.ndarray) -> np.ndarray:
        return values[None]

    def close(self) -> None:
        pass


class MindSporeCollectives(Collectives):
    """MindSpore's. Starting the framework under msrun has joined the cluster (`backends`)."""

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
    """torch.distributed's: NCCL for CUDA devices, HCCL for NPUs (torch_npu brings it), gloo otherwise."""

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
