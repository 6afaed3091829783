"""Random numbers for one crop of one image in one epoch: counted, not drawn in sequence.

Philox: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
"""

from __future__ import annotations

import numpy as np


def generator(seed: int, epoch: int, index: int, crop: int) -> np.random.Generator:
    """A generator whose numbers depend on these four and nothing else.

    The key holds (seed, epoch), the upper half of the counter (image, crop); the lower half counts the numbers drawn.
    """
    counter = np.array([0, 0, index, crop], dtype=np.uint64)
    key = np.array([seed, (1 << 63) + epoch], dtype=np.uint64)  # apart from the keys of the epochs' orders
    return np.random.Generator(np.random.Philox(counter=counter, key=key))
