"""The mean of the gradients of all ranks, computed while the backward pass still runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

#: A bucket is full when it has this many bytes: large enough for the network, and small enough to start early.
BUCKET_BYTES = 25 * 2**20
#: Each gradient begins at a multiple of this many numbers, so that kernels can read several numbers at once.
_ALIGNMENT = 64


class SharedGradients:
    """Averages the gradients of all ranks in buckets that never change (docs/adr/0004).

    The gradient of each parameter is a view of the flat tensor of its bucket, in the memory format of the parameter.
    Buckets hold the parameters from the last to the first, which is about the order in which their gradients are
    computed. The all-reduce of a bucket starts when its last gradient is there and the buckets before it have started,
    so the order is the same on every rank.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], world: int, bucket_bytes: int = BUCKET_BYTES) -> None:
        self._world = world
        self._buckets = [_Bucket(members) for members in _divided(list(parameters)[::-1], bucket_bytes)]
        self._started = 0
        self._last_part = False
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(self._hook(bucket))  # type: ignore[no-untyped-call]

    def begin(self, last_part: bool = True) -> None:
        """Call this before each backward pass of a step. Only that of the last part of the batch shares gradients."""
        self._last_part, self._started = last_part, 0
        for bucket in self._buckets:
            bucket.missing, bucket.work = len(bucket.parameters), None

    def finish(self) -> None:
        """Let the device wait for the means of all ranks. A parameter without a gradient counts as 0."""
        while self._started < len(self._buckets):
            self._start()
        for bucket in self._buckets:
            assert bucket.work is not None
            bucket.work.wait()

    def clear(self) -> None:
        """Set all gradients to 0, for the next step."""
        for bucket in self._buckets:
            bucket.flat.zero_()

    def _hook(self, bucket: _Bucket) -> Callable[[Tensor], None]:
        """Return what autograd calls with a parameter of a bucket, when its gradient is complete."""

        def arrived(_parameter: Tensor) -> None:
            bucket.missing -= 1
            while self._last_part and self._started < len(self._buckets) and not self._buckets[self._started].missing:
                self._start()

        return arrived

    def _start(self) -> None:
        bucket = self._buckets[self._started]
        bucket.flat.div_(self._world)
        bucket.work = dist.all_reduce(bucket.flat, async_op=True)
        self._started += 1


class _Bucket:
    """Some parameters, and one flat tensor that holds their gradients."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.missing = len(parameters)
        self.work: dist.Work | None = None
        self.flat = parameters[0].new_zeros(sum(map(_places, parameters)))
        offset = 0
        for parameter in parameters:
            part = self.flat[offset : offset + parameter.numel()]
            parameter.grad = part.as_strided(parameter.shape, parameter.stride(), part.storage_offset())
            offset += _places(parameter)


def _places(parameter: Tensor) -> int:
    return -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT


def _divided(parameters: list[nn.Parameter], limit: int) -> Iterator[list[nn.Parameter]]:
    """Yield consecutive parameters of one type, as many as it takes to reach `limit` bytes."""
    members: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if members and (size >= limit or parameter.dtype != members[0].dtype):
            yield members
            members, size = [], 0
        members.append(parameter)
        size += parameter.numel() * parameter.element_size()
    if members:
        yield members


def same_on_every_rank(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors, in place, by those of rank 0. Different types of CPUs may draw other initial weights."""
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.dtype, []).append(tensor.detach())
    for members in by_type.values():
        flat = torch.cat([tensor.flatten() for tensor in members])
        dist.broadcast(flat, src=0)
        for tensor, part in zip(members, flat.split_with_sizes([tensor.numel() for tensor in members]), strict=True):
            tensor.copy_(part.view(tensor.shape))
