"""The random parameters of all crops of an image, as one table that one compiled call fills.

Each crop has its own stream of random numbers from a counter-based generator, so the table depends only on the seed,
the epoch, the image's index and size, and the config. Philox4x64-10: Salmon et al., "Parallel random numbers: as easy
as 1, 2, 3", 2011. The numbers are those of numpy's `Philox(counter=[0, 0, index, crop], key=[seed, 2^63 + epoch])`.

A row of a table is a crop, global crops first. Its columns are the constants below; each value is a float64, also whole
numbers. The operations are applied in the order of the columns: cut and resize, flip, jitter, gray, blur, solarize.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from trex.config.schema import CropsConfig
from trex.images.compiled import compiled

TOP, LEFT, HEIGHT, WIDTH = 0, 1, 2, 3  #: the box in the image, pixels
FLIP = 4  #: 1 if left and right are exchanged
#: The first of four columns: the operations of the jitter in their order: brightness 0, contrast 1, saturation 2,
#: hue 3; -1 in all four if there is no jitter (the next five columns are drawn anyway).
ORDER = 5
BRIGHTNESS, CONTRAST, SATURATION = 9, 10, 11  #: factors, to be rounded to float32
HUE = 12  #: shift of the hue, turns
SHIFT = 13  #: the same in 1/255 turns, truncated, modulo 256: 0 … 255
GRAYSCALE = 14  #: 1 if the crop becomes gray
RADIUS = 15  #: of the blur, as Pillow counts it; 0 without blur
#: The box filter of the blur (`box_of`): pixels with full weight on each side, their weight and the weight of the two
#: edge pixels, in units of 1/2^24; 0 without blur.
FULL_PIXELS, WEIGHT, EDGE_WEIGHT = 16, 17, 18
SOLARIZE = 19  #: 1 if values ≥ 128 are inverted
FIELDS = 20

_LOG_LOW, _LOG_HIGH = math.log(3 / 4), math.log(4 / 3)  # of the aspect ratios
# The multipliers of Philox4x64 and the increments of its key, and what splits a product into halves. All of them are
# unsigned: numba computes with floats where signed and unsigned integers meet.
_M0, _M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_W0, _W1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
_HALF, _LOW_HALF = np.uint64(32), np.uint64(0xFFFFFFFF)
_UNIT, _TO_53_BITS = 1.0 / (1 << 53), np.uint64(11)


def draw_crops(height: int, width: int, config: CropsConfig, seed: int, epoch: int, index: int) -> np.ndarray:
    """Draw the parameters of all crops of an image.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        config: number and augmentation of the crops.
        seed: seed of the run.
        epoch: epoch, from 0.
        index: index of the image in its split.

    Returns:
        float64 (crops, FIELDS): one row per crop, global crops first.
    """
    table = np.empty((config.global_count + config.local_count, FIELDS))
    key = np.array([seed, (1 << 63) + epoch], np.uint64)  # differs from all keys of trex/loading/order.py
    _fill(table, height, width, config.global_count, _settings(config), key, index)
    return table


def only_geometry(table: np.ndarray) -> np.ndarray:
    """The table with cut, resize and flip only, for crops whose colors are changed later (`trex.images.finish`)."""
    plain = np.zeros_like(table)
    plain[:, : FLIP + 1] = table[:, : FLIP + 1]
    plain[:, ORDER : ORDER + 4] = -1
    return plain


@functools.lru_cache(maxsize=8)
def _settings(config: CropsConfig) -> np.ndarray:
    """What the compiled code needs of the config, float64 (2, 13): a row for global crops, a row for local crops."""
    c = config
    common = (c.flip, c.jitter, c.brightness, c.contrast, c.saturation, c.hue, c.grayscale)
    return np.array(
        [
            [*c.global_scale, *common, c.global_blur, *c.blur_radius, c.solarize],
            [*c.local_scale, *common, c.local_blur, *c.blur_radius, 0],
        ],
        np.float64,
    )


@compiled
def _high_word(a: np.uint64, b: np.uint64) -> np.uint64:
    """The upper 64 bits of the product."""
    a0, a1, b0, b1 = a & _LOW_HALF, a >> _HALF, b & _LOW_HALF, b >> _HALF
    middle = a1 * b0 + (a0 * b0 >> _HALF)
    other = a0 * b1 + (middle & _LOW_HALF)
    return a1 * b1 + (middle >> _HALF) + (other >> _HALF)


@compiled
def _numbers(u: np.ndarray, count: int, image: int, crop: int, key: np.ndarray) -> None:
    """Four random numbers in [0, 1), float64 (4,): those at the place `count` of the stream."""
    c0, c1, c2, c3 = np.uint64(count), np.uint64(0), np.uint64(image), np.uint64(crop)
    k0, k1 = key[0], key[1]
    for _ in range(10):
        low0, low1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = _high_word(c2, _M1) ^ c1 ^ k0, low1, _high_word(c0, _M0) ^ c3 ^ k1, low0
        k0, k1 = k0 + _W0, k1 + _W1
    u[0], u[1] = np.float64(c0 >> _TO_53_BITS) * _UNIT, np.float64(c1 >> _TO_53_BITS) * _UNIT
    u[2], u[3] = np.float64(c2 >> _TO_53_BITS) * _UNIT, np.float64(c3 >> _TO_53_BITS) * _UNIT


@compiled
def _draw_box(row: np.ndarray, u: np.ndarray, height: int, width: int, low: float, high: float, key: np.ndarray,
              image: int, crop: int) -> int:  # fmt: skip
    """Draw a box as torchvision's RandomResizedCrop does: its share of the area, and an aspect ratio of 3/4 to 4/3.

    Returns the place in the stream of random numbers.
    """
    for attempt in range(1, 11):  # numpy counts before it draws, so the first place is 1
        _numbers(u, attempt, image, crop, key)
        target = height * width * (low + (high - low) * u[0])
        ratio = math.exp(_LOG_LOW + (_LOG_HIGH - _LOG_LOW) * u[1])
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            row[TOP], row[LEFT] = int(u[2] * (height - h + 1)), int(u[3] * (width - w + 1))
            row[HEIGHT], row[WIDTH] = h, w
            return attempt
    ratio = width / height  # no box fitted: use the largest central box with an allowed ratio
    h, w = height, width
    if ratio < 3 / 4:
        h = round(width / (3 / 4))
    elif ratio > 4 / 3:
        w = round(height * (4 / 3))
    row[TOP], row[LEFT], row[HEIGHT], row[WIDTH] = (height - h) // 2, (width - w) // 2, h, w
    return 10


@compiled
def box_of(radius: float) -> tuple[int, int, int]:
    """The extended box filter that Pillow's GaussianBlur(radius) applies three times; its variance is radius² / 3.

    Source: Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended box filtering", 2011.

    Returns:
        The number of pixels with full weight on each side of the center; the weight of these pixels and of the two
        edge pixels next to them, in units of 1/2^24.
    """
    # Pillow computes some of this in single precision, and the rounding affects the weights.
    variance = np.float32(radius) * np.float32(radius) / np.float32(3)
    side = math.floor((np.float64(np.float32(math.sqrt(12.0 * np.float64(variance) + 1.0))) - 1.0) / 2.0)
    part = np.float32((2.0 * side + 1.0) * (side * (side + 1.0) - 3.0 * np.float64(variance)))
    part = part / (np.float32(6) * (variance - np.float32((side + 1.0) * (side + 1.0))))
    box_width = (np.float32(side) + part) * np.float32(2) + np.float32(1)
    weight = int(np.float32(1 << 24) / box_width)
    full_pixels = int(np.float64(side) + np.float64(part))
    return full_pixels, weight, ((1 << 24) - (2 * full_pixels + 1) * weight) // 2


@compiled
def _around_one(strength: float, u: float) -> float:
    low = max(0.0, 1.0 - strength)
    return low + (1.0 + strength - low) * u


@compiled
def _fill(table: np.ndarray, height: int, width: int, global_count: int, settings: np.ndarray, key: np.ndarray,
          image: int) -> None:  # fmt: skip
    u = np.empty(16)
    for crop in range(table.shape[0]):
        row, setting = table[crop], settings[0 if crop < global_count else 1]
        place = _draw_box(row, u, height, width, setting[0], setting[1], key, image, crop)
        for block in range(4):
            _numbers(u[4 * block : 4 * block + 4], place + 1 + block, image, crop, key)
        row[FLIP] = u[0] < setting[2]
        for i in range(4):  # the order is that of the sorted numbers u[2] … u[5]
            before = 0
            for j in range(4):
                before += u[2 + j] < u[2 + i]
            row[ORDER + before] = i
        if u[1] >= setting[3]:
            for place in range(4):
                row[ORDER + place] = -1
        row[BRIGHTNESS], row[CONTRAST] = _around_one(setting[4], u[6]), _around_one(setting[5], u[7])
        row[SATURATION] = _around_one(setting[6], u[8])
        row[HUE] = setting[7] * (2 * u[9] - 1)
        row[SHIFT] = int(row[HUE] * 255) % 256
        row[GRAYSCALE] = u[10] < setting[8]
        for field in range(RADIUS, EDGE_WEIGHT + 1):
            row[field] = 0
        if u[11] < setting[9]:
            row[RADIUS] = setting[10] + (setting[11] - setting[10]) * u[12]
            row[FULL_PIXELS], row[WEIGHT], row[EDGE_WEIGHT] = box_of(row[RADIUS])
        row[SOLARIZE] = u[13] < setting[12]
