"""The color operations on a batch give the same bytes as those on single crops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from trex.images import batched_color as batched
from trex.images import color, draws

COUNT, SIDE = 24, 48
CHANCE = np.random.default_rng(0)
FACTORS = CHANCE.uniform(0.3, 1.7, COUNT).astype(np.float32)
SHIFTS = CHANCE.integers(0, 256, COUNT)
RADII = CHANCE.uniform(0.1, 5, COUNT)

Planes = np.ndarray


@pytest.fixture
def crops(photograph: np.ndarray) -> np.ndarray:
    """Half photographs, half noise; one crop is gray, one black, one white."""
    cuts = [photograph[5 * i : 5 * i + SIDE, 7 * i : 7 * i + SIDE].transpose(2, 0, 1) for i in range(COUNT // 2)]
    noise = np.random.default_rng(1).integers(0, 256, (COUNT // 2, 3, SIDE, SIDE), dtype=np.uint8)
    noise[0] = noise[0, :1]
    noise[1], noise[2] = 0, 255
    return np.concatenate([np.stack(cuts), noise])


def singly(crops: np.ndarray, operation: Callable[[int, Planes, Planes, Planes, Planes, Planes], object]) -> np.ndarray:
    """Apply `operation(number, planes, flat, red, green, blue)` to each crop in place."""
    done = crops.copy()
    for number, planes in enumerate(done):
        operation(number, planes, planes.reshape(-1), *(plane.reshape(-1) for plane in planes))
    return done


def test_brightness(crops: np.ndarray) -> None:
    expected = singly(crops, lambda i, x, p, r, g, b: color.blend(p, np.float32(0), FACTORS[i]))
    found = batched.blend(torch.from_numpy(crops), torch.zeros(COUNT), torch.from_numpy(FACTORS))
    assert np.array_equal(found.numpy(), expected)
    assert not np.array_equal(expected, crops)


def test_contrast(crops: np.ndarray) -> None:
    expected = singly(crops, lambda i, x, p, r, g, b: color.blend(p, np.float32(color.mean_gray(r, g, b)), FACTORS[i]))
    images = torch.from_numpy(crops)
    assert np.array_equal(batched.blend(images, batched.mean_gray(images), torch.from_numpy(FACTORS)).numpy(), expected)


def test_saturation(crops: np.ndarray) -> None:
    expected = singly(crops, lambda i, x, p, r, g, b: color.saturate(r, g, b, FACTORS[i]))
    assert np.array_equal(batched.saturate(torch.from_numpy(crops), torch.from_numpy(FACTORS)).numpy(), expected)


def test_hue(crops: np.ndarray) -> None:
    expected = singly(crops, lambda i, x, p, r, g, b: color.shift_hue(r, g, b, int(SHIFTS[i])))
    found = batched.shift_hue(torch.from_numpy(crops), torch.from_numpy(SHIFTS).double())
    assert np.array_equal(found.numpy(), expected)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [20, 229])
def test_hue_of_all_colors(shift: int) -> None:
    levels = np.arange(256, dtype=np.uint8)
    for red in range(0, 256, 16):
        planes = np.stack(np.meshgrid(levels[red : red + 16], levels, levels, indexing="ij")).reshape(1, 3, 1024, 1024)
        expected = singly(planes, lambda i, x, p, r, g, b: color.shift_hue(r, g, b, shift))
        found = batched.shift_hue(torch.from_numpy(planes), torch.tensor([float(shift)], dtype=torch.float64))
        assert np.array_equal(found.numpy(), expected)


def test_gray_and_solarize(crops: np.ndarray) -> None:
    images = torch.from_numpy(crops)
    expected = singly(crops, lambda i, x, p, r, g, b: color.to_gray(r, g, b))
    assert np.array_equal(batched.to_gray(images).numpy(), expected)
    expected = singly(crops, lambda i, x, p, r, g, b: color.solarize(p))
    assert np.array_equal(batched.solarize(images).numpy(), expected)


def test_blur_with_a_radius_per_crop(crops: np.ndarray) -> None:
    boxes = [draws.box_of(radius) for radius in RADII]
    expected = singly(crops, lambda i, x, p, r, g, b: color.blur(x, *boxes[i]))
    weights = np.zeros((COUNT, 2 + max(full for full, _, _ in boxes)), np.int32)
    for row, (full, weight, edge) in zip(weights, boxes, strict=True):
        row[: full + 1], row[full + 1] = weight, edge
    assert np.array_equal(batched.blur(torch.from_numpy(crops), torch.from_numpy(weights)).numpy(), expected)
