"""Multi-crop augmentation for training: crops of an image as uint8.

Training first draws the random parameters of a crop (`draw_crop`), then applies them (`apply_crop`). The crops have the
distribution of torchvision's RandomResizedCrop, flip, ColorJitter and grayscale and Pillow's blur and solarize on PIL
images. torch resizes the crops and `color.py` does the other operations, which is several times faster.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from trex.config.schema import CropsConfig, Pair
from trex.images import color
from trex.images.draws import generator

LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))


@dataclass(frozen=True)
class Box:
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Jitter:
    """Color jitter: the factors and the order of its four operations."""

    order: tuple[int, ...]  #: permutation of brightness (0), contrast (1), saturation (2), hue (3)
    brightness: float
    contrast: float
    saturation: float
    hue: float  #: turns


@dataclass(frozen=True)
class CropDraw:
    """The operations on one crop, in the order in which they are applied."""

    box: Box
    flip: bool
    jitter: Jitter | None
    grayscale: bool
    blur_radius: float | None
    solarize: bool


def draw_crop(height: int, width: int, is_global: bool, config: CropsConfig, rng: np.random.Generator) -> CropDraw:
    """Draw the operations on one crop of an image of `height` x `width` pixels."""
    box = draw_box(height, width, config.global_scale if is_global else config.local_scale, rng)
    u = rng.random(14)
    jitter = None
    if u[1] < config.jitter:
        jitter = Jitter(
            order=tuple(int(i) for i in np.argsort(u[2:6])),
            brightness=_around_one(config.brightness, u[6]),
            contrast=_around_one(config.contrast, u[7]),
            saturation=_around_one(config.saturation, u[8]),
            hue=float(config.hue * (2 * u[9] - 1)),
        )
    low, high = config.blur_radius
    blurs = u[11] < (config.global_blur if is_global else config.local_blur)
    return CropDraw(
        box=box,
        flip=bool(u[0] < config.flip),
        jitter=jitter,
        grayscale=bool(u[10] < config.grayscale),
        blur_radius=float(low + (high - low) * u[12]) if blurs else None,
        solarize=bool(is_global and u[13] < config.solarize),
    )


def draw_box(height: int, width: int, scale: Pair, rng: np.random.Generator) -> Box:
    """Draw a box as torchvision's RandomResizedCrop does: share of the area in `scale`, aspect ratio 3/4 to 4/3."""
    area = height * width
    for _ in range(10):
        share, aspect, down, right = rng.random(4)
        target = area * (scale[0] + (scale[1] - scale[0]) * share)
        ratio = math.exp(LOG_RATIO[0] + (LOG_RATIO[1] - LOG_RATIO[0]) * aspect)
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(down * (height - h + 1)), int(right * (width - w + 1)), h, w)
    ratio = width / height  # no box fitted: use the largest central box with an allowed ratio
    if ratio < 3 / 4:
        h, w = round(width / (3 / 4)), width
    elif ratio > 4 / 3:
        h, w = height, round(height * (4 / 3))
    else:
        h, w = height, width
    return Box((height - h) // 2, (width - w) // 2, h, w)


def apply_crop(image: torch.Tensor, draw: CropDraw, size: int) -> np.ndarray:
    """Make the crop of an image that `draw` describes.

    Args:
        image: uint8 (1, 3, H, W), channels last in memory.
        draw: the operations on the crop.
        size: side of the crop, pixels.

    Returns:
        uint8 (3, size, size).
    """
    box = draw.box
    cut = image[:, :, box.top : box.top + box.height, box.left : box.left + box.width]
    resized = F.interpolate(cut, size=(size, size), mode="bicubic", antialias=True)[0]
    planes = np.ascontiguousarray((resized.flip(-1) if draw.flip else resized).numpy())
    flat = planes.reshape(-1)
    n = size * size
    r, g, b = flat[:n], flat[n : 2 * n], flat[2 * n :]
    if draw.jitter is not None:
        _jitter(flat, r, g, b, draw.jitter)
    if draw.grayscale:
        color.to_gray(r, g, b)
    if draw.blur_radius is not None:
        color.blur(planes, *color.box_of(draw.blur_radius))
    if draw.solarize:
        color.solarize(flat)
    return planes


def multi_crop(rgb: np.ndarray, config: CropsConfig, seed: int, epoch: int, index: int) -> list[np.ndarray]:
    """Make all crops of one image. The result depends on the arguments only.

    Args:
        rgb: uint8 (H, W, 3).
        config: number, size and augmentation of the crops.
        seed: seed of the run.
        epoch: epoch, from 0.
        index: index of the image in its split.

    Returns:
        One uint8 (count, 3, S, S) array per resolution, the global crops first.
    """
    height, width = rgb.shape[:2]
    image = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None]
    crops = []
    for number in range(config.global_count + config.local_count):
        is_global = number < config.global_count
        draw = draw_crop(height, width, is_global, config, generator(seed, epoch, index, number))
        crops.append(apply_crop(image, draw, config.global_size if is_global else config.local_size))
    if config.global_size == config.local_size or config.local_count == 0:
        return [np.stack(crops)]
    return [np.stack(crops[: config.global_count]), np.stack(crops[config.global_count :])]


def _around_one(strength: float, u: float) -> float:
    return float(max(0.0, 1 - strength) + (1 + strength - max(0.0, 1 - strength)) * u)


def _jitter(flat: np.ndarray, r: np.ndarray, g: np.ndarray, b: np.ndarray, jitter: Jitter) -> None:
    """Apply the four operations in their drawn order, rounding to bytes after each, as on PIL images."""
    for operation in jitter.order:
        if operation == 0:
            color.blend(flat, np.float32(0), np.float32(jitter.brightness))
        elif operation == 1:
            color.blend(flat, np.float32(color.mean_gray(r, g, b)), np.float32(jitter.contrast))
        elif operation == 2:
            color.saturate(r, g, b, np.float32(jitter.saturation))
        else:
            color.shift_hue(r, g, b, int(jitter.hue * 255) % 256)
