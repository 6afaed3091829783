"""Copies batches to the device beside its computation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Transfer:
    """Copies tensors from pinned host memory to the device.

    A GPU copies in a stream of its own, which does not wait for the computation. The host queues a step in a part of
    the time that the GPU needs for it, so the copy of a batch starts while the step before it is computed, and the next
    batch need not be fetched in advance. On a CPU nothing is copied.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        """
        Args:
            device: where the batches are needed.
            cuda: the functions for streams, those of `torch.cuda`.
        """
        self._device, self._cuda = device, cuda
        self._stream = cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the tensors on the device, for use in its current stream. Does not wait for the device."""
        if self._stream is None:
            return list(tensors)
        with self._cuda.stream(self._stream):
            copies = [tensor.to(self._device, non_blocking=True) for tensor in tensors]
        current = self._cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for copy in copies:
            # The memory belongs to the copying stream. Without this, the next batch could be copied into it while the
            # computation still reads this one.
            copy.record_stream(current)
        return copies
