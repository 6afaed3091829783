"""The order of an epoch: a function of its arguments and nothing else."""

from __future__ import annotations

import numpy as np


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0 … n - 1, int64 (n,), drawn from Philox keyed by (seed, epoch)."""
    key = np.array([seed, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(n)
