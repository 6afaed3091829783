"""The order of the images in an epoch. It depends only on the number of images, the seed and the epoch."""

from __future__ import annotations

import numpy as np


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """A random permutation of 0 … n - 1, int64 (n,), from the Philox generator with the key (seed, epoch)."""
    key = np.array([seed, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(n)
