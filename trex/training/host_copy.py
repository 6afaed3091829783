"""A copy of a training state in memory that is used again for each save.

New memory costs more than the copy: the operating system clears each page when it is first written to, and CUDA
registers it. So the memory of the first copy is kept. It takes as much as the state; for tensors of a GPU it is pinned,
so that the device writes to it directly, and PyTorch rounds each tensor up to a power of two.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Path = tuple[str | int, ...]  #: the keys and indices that lead to a tensor


class HostCopy:
    """The memory of one copy of a state."""

    def __init__(self) -> None:
        self._buffers: dict[Path, Tensor] = {}

    def take(self, value: Any) -> Any:
        """Copy a state of dicts, lists, tuples, tensors and plain values. Waits until the device has sent it.

        The copy is valid until the next call, whatever happens to the tensors of `value`.

        Returns:
            The same containers and plain values with CPU tensors, of the same shapes, dtypes and strides.

        Raises:
            MemoryError, RuntimeError: if there is not enough memory.
        """
        found: dict[Path, Tensor] = {}
        _collect(value, (), found)
        self._buffers = {path: self._buffer(path, tensor) for path, tensor in found.items()}
        if not found:
            return _with_tensors(value, (), {})
        with torch.no_grad():
            torch._foreach_copy_(list(self._buffers.values()), list(found.values()), non_blocking=True)
        for device in {tensor.device for tensor in found.values() if tensor.is_cuda}:
            torch.cuda.current_stream(device).synchronize()
        return _with_tensors(value, (), self._buffers)

    def _buffer(self, path: Path, tensor: Tensor) -> Tensor:
        """Return memory for a tensor: that of the last copy if it fits, or else new memory."""
        kept = self._buffers.get(path)
        # Of the strides that a tensor would get in memory of its own: those of a view have gaps.
        strides = torch.empty_like(tensor, device="meta").stride()
        if kept is not None and (kept.shape, kept.dtype, kept.stride()) == (tensor.shape, tensor.dtype, strides):
            return kept
        return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda, requires_grad=False)


def _collect(value: Any, path: Path, found: dict[Path, Tensor]) -> None:
    if isinstance(value, Tensor):
        found[path] = value
    elif isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _collect(item, (*path, key), found)


def _with_tensors(value: Any, path: Path, tensors: dict[Path, Tensor]) -> Any:
    """Return the containers of `value` with other tensors. Plain values cannot change, so they are not copied."""
    if isinstance(value, Tensor):
        return tensors[path]
    if isinstance(value, dict):
        return {key: _with_tensors(item, (*path, key), tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_with_tensors(item, (*path, index), tensors) for index, item in enumerate(value))
    return value
