"""The processes that compute together: one rank a device, over NCCL on GPUs and gloo on CPUs."""

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

#: A rank that died leaves the others in a collective; after this they end with an error instead of waiting on.
TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Ranks:
    """This process's place among the ranks, and what they agree on through the CPU.

    `control` is a gloo group beside the data's own: what goes through it never waits for the GPU.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = CPU
    control: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this rank writes what all have in common."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            dist.barrier(group=self.control)

    def maximum(self, value: int) -> int:
        """The largest `value` of all ranks, at once."""
        if self.world == 1:
            return value
        box = torch.tensor([value])
        dist.all_reduce(box, op=dist.ReduceOp.MAX, group=self.control)
        return int(box.item())

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum `tensor` over all ranks, in place, on its own device."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast(self, value: Any) -> Any:
        """Rank 0's JSON-like `value`, on every rank. Nothing is unpickled."""
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
        """Every rank's `text`, in rank order, on every rank."""
        mine = torch.tensor(list(text.encode()), dtype=torch.uint8)
        padded = torch.zeros(self.maximum(mine.numel()), dtype=torch.uint8)
        padded[: mine.numel()] = mine
        sizes = self.gather(torch.tensor([mine.numel()]))
        return [
            bytes(found[: int(size)].tolist()).decode() for found, size in zip(self.gather(padded), sizes, strict=True)
        ]

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Every rank's CPU `tensor`, all of one shape and dtype, in rank order."""
        if self.world == 1:
            return [tensor]
        boxes = [torch.empty_like(tensor) for _ in range(self.world)]
        dist.all_gather(boxes, tensor, group=self.control)
        return boxes


class Agreement:
    """Ranks agree, step by step, on the most urgent wish of any of them, without waiting for one another.

    A wish made in one step is answered in the next: the reduction of step n runs while step n + 1 computes.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._box = torch.zeros(1, dtype=torch.int64)
        self._work: dist.Work | None = None

    def exchange(self, wish: int) -> int:
        """Hand in this step's wish; return the highest wish that any rank handed in one call ago (0 at first)."""
        if self._ranks.world == 1:
            return wish
        answer = 0
        if self._work is not None:
            self._work.wait()
            answer = int(self._box.item())
        self._box = torch.tensor([wish])
        self._work = dist.all_reduce(self._box, op=dist.ReduceOp.MAX, group=self._ranks.control, async_op=True)
        return answer

    def finish(self) -> None:
        """Wait for the reduction under way, so that the group can be used for something else."""
        if self._work is not None:
            self._work.wait()
            self._work = None


@contextlib.contextmanager
def joined(rank: int, world: int, device: torch.device, store: Store | None) -> Iterator[Ranks]:
    """Join the other processes for the length of the block.

    Args:
        rank: this process's number, 0 … world - 1.
        world: number of processes.
        device: where this process computes; a CUDA device brings NCCL, a CPU gloo.
        store: the key-value store all ranks meet in; None only where world is 1.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world == 1:
        yield Ranks(rank, world, device)
        return
    assert store is not None, "several ranks need a store to meet in"
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=world, timeout=TIMEOUT,
        device_id=device if backend == "nccl" else None,
    )  # fmt: skip
    control: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=TIMEOUT)  # type: ignore[assignment]
    yield Ranks(rank, world, device, control)
    # Not after an error: NCCL waits for the other ranks here, which may wait in a collective for this one. The process
    # that ends tells them.
    dist.destroy_process_group()
