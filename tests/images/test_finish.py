"""Crops that are finished a batch at a time have the same bytes as those of the loader's processes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from trex.config.schema import CropsConfig
from trex.images import draws
from trex.images import finish as finish_module
from trex.images.crops import apply_crop
from trex.images.finish import finish

DEFAULT = CropsConfig()


def resized_only(table: np.ndarray) -> np.ndarray:
    """The same draws without color operations and blur."""
    plain = np.zeros_like(table)
    plain[:, : draws.FLIP + 1] = table[:, : draws.FLIP + 1]
    plain[:, draws.ORDER : draws.ORDER + 4] = -1
    return plain


def crops_of(image: np.ndarray, table: np.ndarray, size: int) -> np.ndarray:
    """uint8 (n, 3, size, size), as the loader's processes make them."""
    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
    return np.stack([apply_crop(tensor, row, size) for row in table])


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
def test_bytes_are_those_of_single_crops(photograph: np.ndarray, config: CropsConfig) -> None:
    tables = [draws.draw_crops(*photograph.shape[:2], config, 0, 0, image) for image in range(6)]
    for size, rows in ((64, slice(0, 1)), (48, slice(1, 9))):
        table = np.concatenate([one[rows] for one in tables])
        expected = crops_of(photograph, table, size)
        images = torch.from_numpy(crops_of(photograph, resized_only(table), size))
        assert np.array_equal(finish(images, table).numpy(), expected)


def test_large_batches_are_computed_in_pieces(photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish_module, "_PIECE", 3 * 32 * 32 * 2)
    table = np.concatenate([draws.draw_crops(*photograph.shape[:2], DEFAULT, 0, 0, image) for image in range(4)])
    images = torch.from_numpy(crops_of(photograph, resized_only(table), 32))
    assert np.array_equal(finish(images, table).numpy(), crops_of(photograph, table, 32))
