"""Datasets for tests, in the form of a user's own image folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


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


def write_digits(folder: Path, train: int, val: int) -> None:
    """Write an image folder of real handwritten digits, 8 x 8 pixels: train/ and val/ with the classes 0 to 6.

    A small part of the dataset `digits_seen`, for trainings that only have to be short.

    Args:
        folder: where to write it.
        train: number of training images per class.
        val: number of test images per class.
    """
    bunch = load_digits()
    for label in range(7):
        images = np.round(bunch.images[bunch.target == label] * (255 / 16)).astype(np.uint8)
        for split, chosen in (("train", images[:train]), ("val", images[train : train + val])):
            place = folder / split / str(label)
            place.mkdir(parents=True)
            for number, pixels in enumerate(chosen):
                Image.fromarray(pixels).convert("RGB").save(place / f"{number}.png")
