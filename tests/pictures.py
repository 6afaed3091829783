"""Datasets for tests, as a user could have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_noise(folder: Path, images: int, size: int) -> None:
    """An image folder of noise: train/ and val/, in each the classes a and b with so many square images."""
    chance = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in ("a", "b"):
            (folder / part / label).mkdir(parents=True)
            for number in range(images):
                pixels = chance.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / label / f"{number}.png")
