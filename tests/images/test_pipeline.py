"""Compares complete crops with the usual pipeline, which applies torchvision's transforms to PIL images.

With the same random parameters both give the same crop; with their own random parameters, the same distribution.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from PIL import Image, ImageFilter, ImageOps
from scipy.stats import ks_2samp
from torchvision.transforms import functional as F

from trex.config.schema import CropsConfig
from trex.images import draws
from trex.images.crops import apply_crops, multi_crop
from trex.images.resize import prepare

CONFIG = CropsConfig()
LIKELY = 1e-3  #: smallest accepted p-value: a correct distribution gives a smaller one for one seed in a thousand


def usual_crop(rgb: np.ndarray, draw: np.ndarray, size: int) -> np.ndarray:
    """The crop that PIL and torchvision make with the parameters `draw`: uint8 (size, size, 3)."""
    box, bicubic = [int(value) for value in draw[draws.TOP : draws.WIDTH + 1]], T.InterpolationMode.BICUBIC
    image = F.resized_crop(Image.fromarray(rgb), *box, [size, size], bicubic)
    if draw[draws.FLIP]:
        image = F.hflip(image)
    jitter = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    for operation in draw[draws.ORDER : draws.ORDER + 4].astype(int):
        if operation >= 0:
            factor = draw[(draws.BRIGHTNESS, draws.CONTRAST, draws.SATURATION, draws.HUE)[operation]]
            image = jitter[operation](image, float(factor))
    if draw[draws.GRAYSCALE]:
        image = F.rgb_to_grayscale(image, 3)
    if draw[draws.RADIUS]:
        image = image.filter(ImageFilter.GaussianBlur(float(draw[draws.RADIUS])))
    if draw[draws.SOLARIZE]:
        image = ImageOps.solarize(image, 128)
    return np.asarray(image)


@pytest.mark.parametrize(("is_global", "size"), [(True, 224), (False, 96)])
def test_crop_with_the_same_parameters_equals_the_usual_pipelines(
    photograph: np.ndarray, is_global: bool, size: int
) -> None:
    """Measured: 69 dB (global) and 71 dB (local) on average, 48 dB at worst. Only the resize is not exact."""
    image, crop = prepare(photograph), np.empty((1, 1, 3, size, size), np.uint8)
    decibels = []
    for index in range(100):
        draw = draws.draw_crops(*photograph.shape[:2], CONFIG, 0, 0, index)[0 if is_global else 1]
        apply_crops(crop, 0, image, draw[None])
        off = crop[0, 0].transpose(1, 2, 0) - usual_crop(photograph, draw, size).astype(float)
        decibels.append(10 * math.log10(255**2 / max(np.mean(off**2), 1e-9)))
    assert np.mean(decibels) > 65
    assert min(decibels) > 44


def usual_transform(is_global: bool) -> T.Compose:
    """The method's augmentation, made of torchvision's transforms on PIL images."""
    size, scale, blur = (224, (0.4, 1.0), 0.2) if is_global else (96, (0.05, 0.4), 0.5)
    steps = [
        T.RandomResizedCrop(size, scale, interpolation=T.InterpolationMode.BICUBIC),
        T.RandomHorizontalFlip(0.5),
        T.RandomApply([T.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)], 0.8),
        T.RandomGrayscale(0.2),
        T.RandomApply([T.Lambda(_random_blur)], blur),
    ]
    return T.Compose([*steps, *([T.RandomSolarize(128, 0.2)] if is_global else [])])


def _random_blur(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(float(torch.empty(1).uniform_(0.1, 2.0))))


def statistics(crop: np.ndarray) -> list[float]:
    """Statistics of a crop (S, S, 3): mean and deviation of each channel, saturation, roughness (reduced by blur)."""
    values = crop.astype(np.float32)
    saturation = (values.max(2) - values.min(2)).mean()
    roughness = np.abs(np.diff(values, axis=1)).mean()
    return [*values.mean((0, 1)), *values.std((0, 1)), float(saturation), float(roughness)]


@pytest.mark.slow
@pytest.mark.parametrize("is_global", [True, False])
def test_crops_have_the_usual_pipelines_statistics(photograph: np.ndarray, is_global: bool) -> None:
    """Kolmogorov-Smirnov tests on eight statistics of 1500 crops of each pipeline."""
    torch.manual_seed(0)
    transform, image, count = usual_transform(is_global), Image.fromarray(photograph), 1500
    config = CropsConfig(local_count=0) if is_global else CONFIG
    each = 1 if is_global else config.local_count
    theirs = np.array([statistics(np.asarray(transform(image))) for _ in range(count)])
    crops = [crop for i in range(math.ceil(count / each)) for crop in multi_crop(photograph, config, 1, 0, i)[-1]]
    mine = np.array([statistics(crop.transpose(1, 2, 0)) for crop in crops])
    for column in range(mine.shape[1]):
        assert ks_2samp(mine[:, column], theirs[:, column]).pvalue > LIKELY, column
