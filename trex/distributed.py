"""The processes that compute together: one rank per device, over NCCL on GPUs and gloo on CPUs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store

CPU = torch.device("cpu")

#: If a rank dies, the other ranks wait for it in a collective, which fails after this time.
TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Ranks:
    """This process's rank, the world size, and collectives of small values on the CPU.

    `control` is a separate gloo group for these values, so that they never wait for the GPU.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = CPU
    control: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes the files that all ranks share."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every rank has reached this call."""
        if self.world > 1:
            dist.barrier(group=self.control)

    def maximum(self, value: int) -> int:
        """Return the largest `value` of any rank. Waits for all ranks."""
        if self.world == 1:
            return value
        result = torch.tensor([value])
        dist.all_reduce(result, op=dist.ReduceOp.MAX, group=self.control)
        return int(result.item())

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum `tensor` over all ranks, in place, on the device where it is."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's `value` on every rank. It is sent as JSON, so nothing is unpickled."""
        if self.world == 1:
            return value
        data = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
        size = torch.tensor([data.numel()])
        dist.broadcast(size, src=0, group=self.control)
        if not self.is_main:
            data = torch.empty(int(size.item()), dtype=torch.uint8)
        dist.broadcast(data, src=0, group=self.control)
        return json.loads(bytes(data.tolist()))

    def gather_texts(self, text: str) -> list[str]:
        """Return the `text` of every rank, in rank order, on every rank."""
        mine = torch.tensor(list(text.encode("utf-8", "surrogateescape")), dtype=torch.uint8)
        padded = torch.zeros(self.maximum(mine.numel()), dtype=torch.uint8)
        padded[: mine.numel()] = mine
        sizes = self.gather(torch.tensor([mine.numel()]))
        return [
            bytes(data[: int(size)].tolist()).decode("utf-8", "surrogateescape")
            for data, size in zip(self.gather(padded), sizes, strict=True)
        ]

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Return the CPU `tensor` of every rank, in rank order. All must have the same shape and dtype."""
        if self.world == 1:
            return [tensor]
        gathered = [torch.empty_like(tensor) for _ in range(self.world)]
        dist.all_gather(gathered, tensor, group=self.control)
        return gathered


class Agreement:
    """Lets the ranks agree at every step on the most urgent request of any rank, without waiting for each other.

    A request is answered one step later: the reduction of step n runs while step n + 1 computes.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._request = torch.zeros(1, dtype=torch.int64)
        self._work: dist.Work | None = None

    def exchange(self, request: int) -> int:
        """Send this step's request. Return the largest request that any rank sent in the previous call.

        The first call returns 0. With one rank, the request itself is returned.
        """
        if self._ranks.world == 1:
            return request
        answer = 0
        if self._work is not None:
            self._work.wait()
            answer = int(self._request.item())
        self._request = torch.tensor([request])
        self._work = dist.all_reduce(self._request, op=dist.ReduceOp.MAX, group=self._ranks.control, async_op=True)
        return answer

    def finish(self) -> None:
        """Wait for the pending reduction, so that other collectives can use the group."""
        if self._work is not None:
            self._work.wait()
            self._work = None


@contextlib.contextmanager
def joined(rank: int, world: int, device: torch.device, store: Store | None) -> Iterator[Ranks]:
    """Join the process group for the duration of the block.

    Args:
        rank: number of this process, 0 … world - 1.
        world: number of processes.
        device: device of this process; the backend is NCCL for a CUDA device and gloo for a CPU.
        store: key-value store that all ranks connect to; it may be None only if world is 1.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world == 1:
        yield Ranks(rank, world, device)
        return
    assert store is not None, "several ranks need a store to connect to"
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=world, timeout=TIMEOUT,
        device_id=device if backend == "nccl" else None,
    )  # fmt: skip
    control: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=TIMEOUT)  # type: ignore[assignment]
    yield Ranks(rank, world, device, control)
    # Skipped after an error: NCCL would wait here for the other ranks, which may wait for this one in a collective.
    # They get an error when this process ends.
    dist.destroy_process_group()
