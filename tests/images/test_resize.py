"""The compiled resize gives the bytes of torch's antialiased bicubic interpolation of uint8."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from trex.images.resize import prepare, resize_box

Box = tuple[int, int, int, int]  #: top, left, height, width


def torchs(rgb: np.ndarray, box: Box, size: int) -> np.ndarray:
    top, left, height, width = box
    cut = torch.from_numpy(rgb).permute(2, 0, 1)[None][:, :, top : top + height, left : left + width]
    return F.interpolate(cut, size=(size, size), mode="bicubic", antialias=True)[0].numpy()


def ours(rgb: np.ndarray, box: Box, size: int, flip: bool = False) -> np.ndarray:
    out = np.empty((3, size, size), np.uint8)
    resize_box(out, prepare(rgb), *box, flip)
    return out


@pytest.mark.parametrize("size", [8, 33, 96, 224])
@pytest.mark.parametrize("seed", range(3))
def test_boxes_equal_torchs(photograph: np.ndarray, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 2, photograph.shape, dtype=np.uint8) * np.uint8(255)  # the sums overshoot, and are clipped
    for rgb in (photograph, noise, photograph[:373, :499].copy()):
        for _ in range(8):
            height, width = int(rng.integers(1, rgb.shape[0] + 1)), int(rng.integers(1, rgb.shape[1] + 1))
            box = (int(rng.integers(rgb.shape[0] - height + 1)), int(rng.integers(rgb.shape[1] - width + 1)))
            assert np.array_equal(ours(rgb, (*box, height, width), size), torchs(rgb, (*box, height, width), size))


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (15, 40), (16, 16), (17, 33), (700, 5), (5, 700)])
def test_images_of_any_size_equal_torchs(shape: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert np.array_equal(ours(rgb, (0, 0, *shape), 32), torchs(rgb, (0, 0, *shape), 32))


def test_flip_exchanges_left_and_right_after_the_resize(photograph: np.ndarray) -> None:
    box = (3, 5, 200, 301)
    assert np.array_equal(ours(photograph, box, 40, flip=True), torchs(photograph, box, 40)[..., ::-1])
