"""Crops have the distribution of torchvision's transforms, and depend only on seed, epoch and image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from PIL import Image
from scipy.stats import binomtest, ks_2samp, kstest
from torchvision.transforms import functional as F

from trex.config.schema import CropsConfig
from trex.images.crops import Box, CropDraw, apply_crop, draw_box, draw_crop, multi_crop
from trex.images.draws import generator

N = 4000
CONFIG = CropsConfig()
LIKELY = 1e-3  #: smallest accepted p-value: a correct distribution gives a smaller one for one seed in a thousand


@pytest.fixture(scope="module")
def draws() -> dict[bool, list[CropDraw]]:
    return {
        is_global: [draw_crop(375, 500, is_global, CONFIG, generator(0, 0, i, 0)) for i in range(N)]
        for is_global in (True, False)
    }


@pytest.mark.parametrize("scale", [(0.4, 1.0), (0.25, 1.0), (0.05, 0.4), (0.05, 0.25)])
@pytest.mark.parametrize("size", [(375, 500), (500, 200), (90, 640)])
def test_boxes_have_torchvisions_distribution(scale: tuple[float, float], size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    image = torch.empty(3, *size)
    theirs = np.array([T.RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(N)])
    boxes = [draw_box(*size, scale, generator(0, 0, i, 0)) for i in range(N)]
    mine = np.array([(box.top, box.left, box.height, box.width) for box in boxes])
    for column in range(4):
        assert ks_2samp(mine[:, column], theirs[:, column]).pvalue > LIKELY
    assert ks_2samp(mine[:, 2] * mine[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > LIKELY


def test_image_too_narrow_for_any_box_gives_torchvisions_central_box() -> None:
    box = draw_box(20, 2000, (0.9, 1.0), generator(0, 0, 0, 0))
    assert box == Box(0, (2000 - 27) // 2, 20, 27)


@pytest.mark.parametrize(
    ("is_global", "what", "rate"),
    [
        (True, lambda d: d.flip, 0.5),
        (True, lambda d: d.jitter is not None, 0.8),
        (True, lambda d: d.grayscale, 0.2),
        (True, lambda d: d.blur_radius is not None, 0.2),
        (True, lambda d: d.solarize, 0.2),
        (False, lambda d: d.flip, 0.5),
        (False, lambda d: d.jitter is not None, 0.8),
        (False, lambda d: d.grayscale, 0.2),
        (False, lambda d: d.blur_radius is not None, 0.5),
    ],
)
def test_rates_are_those_of_the_method(draws, is_global: bool, what, rate: float) -> None:
    assert binomtest(sum(map(what, draws[is_global])), N, rate).pvalue > LIKELY


def test_local_crops_are_never_solarized(draws) -> None:
    assert not any(draw.solarize for draw in draws[False])


@pytest.mark.parametrize(
    ("factor", "low", "high"),
    [("brightness", 0.6, 1.4), ("contrast", 0.6, 1.4), ("saturation", 0.8, 1.2), ("hue", -0.1, 0.1)],
)
def test_jitter_factors_are_uniform(draws, factor: str, low: float, high: float) -> None:
    values = [getattr(draw.jitter, factor) for draw in draws[True] if draw.jitter]
    assert kstest(values, "uniform", (low, high - low)).pvalue > LIKELY


def test_jitter_has_torchvisions_distribution(draws) -> None:
    """Compares order and factors with those of ColorJitter with the method's strengths."""
    torch.manual_seed(1)
    jitter = T.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    ranges = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    drawn = [T.ColorJitter.get_params(*ranges) for _ in range(N)]
    mine = [draw.jitter for draw in draws[True] if draw.jitter]
    for place in range(4):
        assert ks_2samp([j.order[place] for j in mine], [int(d[0][place]) for d in drawn]).pvalue > LIKELY
    for number, factor in enumerate(("brightness", "contrast", "saturation", "hue")):
        assert ks_2samp([getattr(j, factor) for j in mine], [d[1 + number] for d in drawn]).pvalue > LIKELY


def test_blur_radius_is_uniform(draws) -> None:
    radii = [draw.blur_radius for draw in draws[False] if draw.blur_radius is not None]
    assert kstest(radii, "uniform", (0.1, 1.9)).pvalue > LIKELY


def test_every_order_of_the_jitter_is_equally_likely(draws) -> None:
    orders = [draw.jitter.order for draw in draws[True] if draw.jitter]
    counts = {order: orders.count(order) for order in set(orders)}
    assert len(counts) == math.factorial(4)
    assert all(binomtest(count, len(orders), 1 / 24).pvalue > LIKELY / 24 for count in counts.values())


def plain(box: Box, flip: bool = False) -> CropDraw:
    return CropDraw(box, flip, None, grayscale=False, blur_radius=None, solarize=False)


@pytest.mark.parametrize("size", [96, 224])
@pytest.mark.parametrize("box", [Box(10, 20, 300, 400), Box(100, 150, 120, 100), Box(200, 300, 40, 45)])
def test_resized_crop_equals_pillows_bicubic_up_to_rounding(photograph: np.ndarray, box: Box, size: int) -> None:
    """Both round and clip to bytes between the passes along the two axes, but in different ways.

    A float resize differs from Pillow's by the same amount (54 dB, four gray levels at most, on these boxes).
    """
    image = torch.from_numpy(photograph).permute(2, 0, 1)[None]
    found = apply_crop(image, plain(box), size).transpose(1, 2, 0).astype(int)
    resized = F.resized_crop(
        Image.fromarray(photograph), box.top, box.left, box.height, box.width, [size, size], T.InterpolationMode.BICUBIC
    )
    off = found - np.asarray(resized)
    assert 10 * math.log10(255**2 / np.mean(off**2)) > 50
    assert np.abs(off).max() <= 6


def test_flip_mirrors_left_and_right(photograph: np.ndarray) -> None:
    image = torch.from_numpy(photograph).permute(2, 0, 1)[None]
    box = Box(0, 0, 375, 500)
    assert np.array_equal(apply_crop(image, plain(box, flip=True), 96), apply_crop(image, plain(box), 96)[..., ::-1])


def test_crops_depend_on_seed_epoch_and_image_only(photograph: np.ndarray) -> None:
    first = multi_crop(photograph, CONFIG, 0, 3, 7)
    np.random.default_rng(5).random(3)
    torch.rand(3)
    again = multi_crop(photograph, CONFIG, 0, 3, 7)
    assert [crop.shape for crop in first] == [(1, 3, 224, 224), (8, 3, 96, 96)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    for other in ((1, 3, 7), (0, 4, 7), (0, 3, 8)):
        assert not np.array_equal(first[0], multi_crop(photograph, CONFIG, *other)[0])
    assert len({crop.tobytes() for crop in first[1]}) == 8


def test_image_smaller_than_the_crop_is_enlarged() -> None:
    crops = multi_crop(np.full((8, 8, 3), 200, np.uint8), CropsConfig(jitter=0, grayscale=0, solarize=0), 0, 0, 0)
    assert all(np.abs(crop.astype(int) - 200).max() <= 1 for crop in crops)
