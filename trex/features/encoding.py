"""Runs the encoder on batches: copying the next batch and fetching the last features, while a GPU computes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from trex.training.transfer import Transfer


class Encoding:
    """Starts an encoder on a batch, and hands over its features later.

    On a GPU, `start` returns at once. The images are copied on a stream of their own, so the copy runs beside the
    computation of the batch before; the features are copied to page-locked memory, and only `fetch` waits for them. On
    a CPU, `start` computes.
    """

    def __init__(self, features: Callable[[Tensor], Tensor], device: torch.device) -> None:
        """Start batches on `device` with `features`, which takes uint8 (B, 3, S, S) there to float32 (B, D)."""
        self._features, self._to_device, self._is_gpu = features, Transfer(device), device.type == "cuda"

    def start(self, parts: Sequence[Tensor]) -> Callable[[], np.ndarray]:
        """Start with a batch.

        Args:
            parts: uint8 (n, 3, S, S) each, on the CPU, and page-locked if the device is a GPU; together the batch.

        Returns:
            a function that waits for the features and returns them, float32 (B, D).
        """
        images = self._to_device(parts)
        made = self._features(images[0] if len(images) == 1 else torch.cat(images))
        if not self._is_gpu:
            return made.numpy
        fetched = torch.empty(made.shape, dtype=made.dtype, pin_memory=True)
        fetched.copy_(made, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()

        def fetch() -> np.ndarray:
            done.synchronize()
            return fetched.numpy()

        return fetch


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """During the block, GPUs compute float32 products and convolutions in float32.

    By default PyTorch lets cuDNN round the factors to 10 bits (TF32) on GPUs that can do that, so features would differ
    from one type of GPU to another, by about a thousandth.
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
