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
from trex.images import draws as field
from trex.images.crops import apply_crops, multi_crop
from trex.images.draws import FIELDS, draw_crops
from trex.images.resize import prepare

N = 4000
CONFIG = CropsConfig()
LIKELY = 1e-3  #: smallest accepted p-value: a correct distribution gives a smaller one for one seed in a thousand


Box = tuple[int, int, int, int]  #: top, left, height, width


@pytest.fixture(scope="module")
def draws() -> dict[bool, np.ndarray]:
    """The draws of N images: float64 (N, FIELDS), of their global crops (True) and of a local crop of each (False)."""
    tables = np.stack([draw_crops(375, 500, CONFIG, 0, 0, i) for i in range(N)])
    return {True: tables[:, 0], False: tables[:, 1]}


def jittered(draws: np.ndarray) -> np.ndarray:
    return draws[draws[:, field.ORDER] >= 0]


@pytest.mark.parametrize("scale", [(0.4, 1.0), (0.25, 1.0), (0.05, 0.4), (0.05, 0.25)])
@pytest.mark.parametrize("size", [(375, 500), (500, 200), (90, 640)])
def test_boxes_have_torchvisions_distribution(scale: tuple[float, float], size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    image = torch.empty(3, *size)
    theirs = np.array([T.RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(N)])
    config = CropsConfig(global_scale=scale, local_count=0)
    mine = np.array([draw_crops(*size, config, 0, 0, i)[0, field.TOP : field.WIDTH + 1] for i in range(N)])
    for column in range(4):
        assert ks_2samp(mine[:, column], theirs[:, column]).pvalue > LIKELY
    assert ks_2samp(mine[:, 2] * mine[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > LIKELY


def test_image_too_narrow_for_any_box_gives_torchvisions_central_box() -> None:
    [draw] = draw_crops(20, 2000, CropsConfig(global_scale=(0.9, 1.0), local_count=0), 0, 0, 0)
    assert draw[: field.WIDTH + 1].tolist() == [0, (2000 - 27) // 2, 20, 27]


@pytest.mark.parametrize(
    ("is_global", "what", "rate"),
    [
        (True, lambda d: d[field.FLIP] == 1, 0.5),
        (True, lambda d: d[field.ORDER] >= 0, 0.8),
        (True, lambda d: d[field.GRAYSCALE] == 1, 0.2),
        (True, lambda d: d[field.RADIUS] > 0, 0.2),
        (True, lambda d: d[field.SOLARIZE] == 1, 0.2),
        (False, lambda d: d[field.FLIP] == 1, 0.5),
        (False, lambda d: d[field.ORDER] >= 0, 0.8),
        (False, lambda d: d[field.GRAYSCALE] == 1, 0.2),
        (False, lambda d: d[field.RADIUS] > 0, 0.5),
    ],
)
def test_rates_are_those_of_the_method(draws, is_global: bool, what, rate: float) -> None:
    assert binomtest(sum(map(what, draws[is_global])), N, rate).pvalue > LIKELY


def test_local_crops_are_never_solarized(draws) -> None:
    assert not draws[False][:, field.SOLARIZE].any()


@pytest.mark.parametrize(
    ("factor", "low", "high"),
    [
        (field.BRIGHTNESS, 0.6, 1.4),
        (field.CONTRAST, 0.6, 1.4),
        (field.SATURATION, 0.8, 1.2),
        (field.HUE, -0.1, 0.1),
    ],
    ids=["brightness", "contrast", "saturation", "hue"],
)
def test_jitter_factors_are_uniform(draws, factor: int, low: float, high: float) -> None:
    values = jittered(draws[True])[:, factor]
    assert kstest(values, "uniform", (low, high - low)).pvalue > LIKELY


def test_jitter_has_torchvisions_distribution(draws) -> None:
    """Compares order and factors with those of ColorJitter with the method's strengths."""
    torch.manual_seed(1)
    jitter = T.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    ranges = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    drawn = [T.ColorJitter.get_params(*ranges) for _ in range(N)]
    mine = jittered(draws[True])
    for place in range(4):
        assert ks_2samp(mine[:, field.ORDER + place], [int(d[0][place]) for d in drawn]).pvalue > LIKELY
    for number, factor in enumerate((field.BRIGHTNESS, field.CONTRAST, field.SATURATION, field.HUE)):
        assert ks_2samp(mine[:, factor], [d[1 + number] for d in drawn]).pvalue > LIKELY


def test_blur_radius_is_uniform(draws) -> None:
    radii = draws[False][:, field.RADIUS]
    assert kstest(radii[radii > 0], "uniform", (0.1, 1.9)).pvalue > LIKELY


def test_every_order_of_the_jitter_is_equally_likely(draws) -> None:
    orders = [tuple(order) for order in jittered(draws[True])[:, field.ORDER : field.ORDER + 4]]
    counts = {order: orders.count(order) for order in set(orders)}
    assert len(counts) == math.factorial(4)
    assert all(binomtest(count, len(orders), 1 / 24).pvalue > LIKELY / 24 for count in counts.values())


def plain(box: Box, flip: bool = False) -> np.ndarray:
    """A row that only cuts, resizes and flips."""
    row = np.zeros(FIELDS)
    row[: field.WIDTH + 1], row[field.FLIP], row[field.ORDER : field.ORDER + 4] = box, flip, -1
    return row


def apply_crop(rgb: np.ndarray, draw: np.ndarray, size: int) -> np.ndarray:
    """The crop (3, size, size) that `draw` describes."""
    crop = np.empty((1, 1, 3, size, size), np.uint8)
    apply_crops(crop, 0, prepare(rgb), draw[None])
    return crop[0, 0]


@pytest.mark.parametrize("size", [96, 224])
@pytest.mark.parametrize("box", [(10, 20, 300, 400), (100, 150, 120, 100), (200, 300, 40, 45)])
def test_resized_crop_equals_pillows_bicubic_up_to_rounding(photograph: np.ndarray, box: Box, size: int) -> None:
    """Both round and clip to bytes between the passes along the two axes, but in different ways.

    A float resize differs from Pillow's by the same amount (54 dB, four gray levels at most, on these boxes).
    """
    found = apply_crop(photograph, plain(box), size).transpose(1, 2, 0).astype(int)
    resized = F.resized_crop(Image.fromarray(photograph), *box, [size, size], T.InterpolationMode.BICUBIC)
    off = found - np.asarray(resized)
    assert 10 * math.log10(255**2 / np.mean(off**2)) > 50
    assert np.abs(off).max() <= 6


def test_flip_mirrors_left_and_right(photograph: np.ndarray) -> None:
    box = (0, 0, 375, 500)
    flipped, as_it_is = (apply_crop(photograph, plain(box, flip), 96) for flip in (True, False))
    assert np.array_equal(flipped, as_it_is[..., ::-1])


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
