"""The plain twin of `trex.images.draws`: numpy's own generator, one crop at a time."""

from __future__ import annotations

import math

import numpy as np

from trex.config.schema import CropsConfig, Pair
from trex.images import draws

LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))


def generator(seed: int, epoch: int, index: int, crop: int) -> np.random.Generator:
    counter = np.array([0, 0, index, crop], dtype=np.uint64)
    key = np.array([seed, (1 << 63) + epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


def box(height: int, width: int, scale: Pair, rng: np.random.Generator) -> tuple[int, int, int, int]:
    area = height * width
    for _ in range(10):
        share, aspect, down, right = rng.random(4)
        target = area * (scale[0] + (scale[1] - scale[0]) * share)
        ratio = math.exp(LOG_RATIO[0] + (LOG_RATIO[1] - LOG_RATIO[0]) * aspect)
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(down * (height - h + 1)), int(right * (width - w + 1)), h, w
    ratio = width / height
    if ratio < 3 / 4:
        h, w = round(width / (3 / 4)), width
    elif ratio > 4 / 3:
        h, w = height, round(height * (4 / 3))
    else:
        h, w = height, width
    return (height - h) // 2, (width - w) // 2, h, w


def around_one(strength: float, u: float) -> float:
    return max(0.0, 1 - strength) + (1 + strength - max(0.0, 1 - strength)) * u


def blur_box(radius: float) -> tuple[int, int, int]:
    """`draws.box_of` in numpy's scalars."""
    single = np.float32
    variance = single(single(radius) * single(radius) / single(3))
    side = np.floor((float(single(np.sqrt(12.0 * float(variance) + 1.0))) - 1.0) / 2.0)
    part = single((2 * side + 1) * (side * (side + 1) - 3.0 * float(variance)))
    part = part / single(6 * (variance - single((side + 1) ** 2)))
    width = single(single(side) + part) * single(2) + single(1)
    weight = int(single(1 << 24) / width)
    full_pixels = int(side + part)
    return full_pixels, weight, ((1 << 24) - (2 * full_pixels + 1) * weight) // 2


def table(height: int, width: int, config: CropsConfig, seed: int, epoch: int, index: int) -> np.ndarray:
    """What `draws.draw_crops` returns."""
    rows = np.zeros((config.global_count + config.local_count, draws.FIELDS))
    for crop, row in enumerate(rows):
        is_global, rng = crop < config.global_count, generator(seed, epoch, index, crop)
        row[: draws.WIDTH + 1] = box(height, width, config.global_scale if is_global else config.local_scale, rng)
        u = rng.random(14)
        row[draws.FLIP] = u[0] < config.flip
        row[draws.ORDER : draws.ORDER + 4] = np.argsort(u[2:6]) if u[1] < config.jitter else -1
        row[draws.BRIGHTNESS] = around_one(config.brightness, u[6])
        row[draws.CONTRAST] = around_one(config.contrast, u[7])
        row[draws.SATURATION] = around_one(config.saturation, u[8])
        row[draws.HUE] = config.hue * (2 * u[9] - 1)
        row[draws.SHIFT] = int(row[draws.HUE] * 255) % 256
        row[draws.GRAYSCALE] = u[10] < config.grayscale
        if u[11] < (config.global_blur if is_global else config.local_blur):
            low, high = config.blur_radius
            row[draws.RADIUS] = low + (high - low) * u[12]
            row[draws.FULL_PIXELS : draws.EDGE_WEIGHT + 1] = blur_box(row[draws.RADIUS])
        row[draws.SOLARIZE] = is_global and u[13] < config.solarize
    return rows
