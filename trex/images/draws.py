"""Random numbers for one crop of one image in one epoch, from a counter-based generator.

Philox: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
"""

from __future__ import annotations

import numpy as np


def generator(seed: int, epoch: int, index: int, crop: int) -> np.random.Generator:
    """A generator whose numbers depend only on the seed, the epoch, the image's index and the crop's number.

    The key is (seed, epoch). The upper half of the counter is (image, crop); the lower half counts the numbers drawn.
    """
    counter = np.array([0, 0, index, crop], dtype=np.uint64)
    key = np.array([seed, (1 << 63) + epoch], dtype=np.uint64)  # differs from all keys of trex/loading/order.py
    return np.random.Generator(np.random.Philox(counter=counter, key=key))
