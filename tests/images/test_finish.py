"""Crops that are finished a batch at a time have the same bytes as those of the loader's processes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from trex.config.schema import CropsConfig
from trex.images import draws
from trex.images import finish as finish_module
from trex.images.color import apply_operations
from trex.images.crops import apply_crops
from trex.images.finish import finish
from trex.images.resize import prepare

DEFAULT = CropsConfig()
COUNT, SIDE = 24, 48


@pytest.fixture
def crops(photograph: np.ndarray) -> np.ndarray:
    """uint8 (COUNT, 3, SIDE, SIDE): half photographs, half noise; one crop is gray, one black, one white."""
    cuts = [photograph[5 * i : 5 * i + SIDE, 7 * i : 7 * i + SIDE].transpose(2, 0, 1) for i in range(COUNT // 2)]
    noise = np.random.default_rng(1).integers(0, 256, (COUNT // 2, 3, SIDE, SIDE), dtype=np.uint8)
    noise[0] = noise[0, :1]
    noise[1], noise[2] = 0, 255
    return np.concatenate([np.stack(cuts), noise])


def rows(count: int = COUNT, **columns: np.ndarray | float) -> np.ndarray:
    """A table without any operation but those of `columns`, such as `FLIP=1`."""
    table = np.zeros((count, draws.FIELDS))
    table[:, draws.ORDER : draws.ORDER + 4] = -1
    for name, values in columns.items():
        table[:, getattr(draws, name)] = values
    return table


def singly(crops: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The crops as the loader's processes finish them."""
    done = crops.copy()
    for planes, draw in zip(done, table, strict=True):
        apply_operations(planes, draw)
    return done


def assert_equal(crops: np.ndarray, table: np.ndarray) -> None:
    expected = singly(crops, table)
    assert not np.array_equal(expected, crops), "the operation changes something"
    for device in ("cpu", *["cuda"] * torch.cuda.is_available()):
        images = torch.tensor(crops, device=device)
        assert np.array_equal(finish(images, table).cpu().numpy(), expected)


@pytest.mark.parametrize("operation", [0, 1, 2], ids=["brightness", "contrast", "saturation"])
def test_factor_per_crop(crops: np.ndarray, operation: int) -> None:
    factors = np.random.default_rng(0).uniform(0.3, 1.7, COUNT)
    column = ("BRIGHTNESS", "CONTRAST", "SATURATION")[operation]
    assert_equal(crops, rows(ORDER=operation, **{column: factors}))


def test_hue_shift_per_crop(crops: np.ndarray) -> None:
    assert_equal(crops, rows(ORDER=3, SHIFT=np.random.default_rng(0).integers(1, 256, COUNT)))


def test_gray_and_solarize(crops: np.ndarray) -> None:
    assert_equal(crops, rows(GRAYSCALE=1))
    assert_equal(crops, rows(SOLARIZE=1))


def test_blur_radius_per_crop(crops: np.ndarray) -> None:
    radii = np.random.default_rng(0).uniform(0.1, 5, COUNT)
    full, weight, edge = np.array([draws.box_of(radius) for radius in radii]).T
    assert_equal(crops, rows(RADIUS=radii, FULL_PIXELS=full, WEIGHT=weight, EDGE_WEIGHT=edge))


@pytest.mark.slow
@pytest.mark.parametrize("shift", [20, 229])
def test_hue_of_all_colors(shift: int) -> None:
    levels = np.arange(256, dtype=np.uint8)
    for red in range(0, 256, 16):
        planes = np.stack(np.meshgrid(levels[red : red + 16], levels, levels, indexing="ij")).reshape(1, 3, 1024, 1024)
        assert_equal(planes, rows(1, ORDER=3, SHIFT=shift))


def crops_of(image: np.ndarray, table: np.ndarray, size: int) -> np.ndarray:
    """uint8 (n, 3, size, size), as the loader's processes make them."""
    made = np.empty((len(table), 1, 3, size, size), np.uint8)
    apply_crops(made, 0, prepare(np.ascontiguousarray(image)), table)
    return made[:, 0]


@pytest.mark.parametrize(
    "config",
    [
        DEFAULT,
        replace(DEFAULT, jitter=0, grayscale=1, local_blur=1, blur_radius=(0.1, 20)),
        replace(DEFAULT, jitter=1, grayscale=0, local_blur=0, hue=0.5, brightness=1, contrast=1, saturation=1),
        replace(DEFAULT, jitter=0, grayscale=0, local_blur=0, global_blur=0, solarize=0),
    ],
    ids=["the recipe", "gray and blur", "strong jitter", "nothing"],
)
def test_all_operations_in_their_order(photograph: np.ndarray, config: CropsConfig) -> None:
    tables = [draws.draw_crops(*photograph.shape[:2], config, 0, 0, image) for image in range(6)]
    for size, of in ((64, slice(0, 1)), (48, slice(1, 9))):
        table = np.concatenate([one[of] for one in tables])
        images = torch.from_numpy(crops_of(photograph, draws.only_geometry(table), size))
        assert np.array_equal(finish(images, table).numpy(), crops_of(photograph, table, size))


def test_large_batches_are_computed_in_pieces(crops: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish_module, "_PIECE", 2 * crops[0].size)
    assert_equal(crops, rows(ORDER=0, BRIGHTNESS=0.7, GRAYSCALE=1, SOLARIZE=1))
