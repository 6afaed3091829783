"""Datasets for tests, in the form of a user's own image folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_noise(folder: Path, images: int, size: int) -> None:
    """Write an image folder of noise: train/ and val/ with the classes a and b.

    Args:
        folder: where to write it.
        images: number of images per class.
        size: width and height of each image, pixels.
    """
    chance = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in ("a", "b"):
            (folder / split / label).mkdir(parents=True)
            for number in range(images):
                pixels = chance.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")
