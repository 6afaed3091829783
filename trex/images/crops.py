"""Multi-crop augmentation for training: crops of an image as uint8.

Training first draws the random parameters of all crops (`draws.draw_crops`), then applies them (`apply_crop`). The
crops have the distribution of torchvision's RandomResizedCrop, flip, ColorJitter and grayscale and Pillow's blur and
solarize on PIL images. torch resizes the crops and `color.py` does the other operations, which is several times faster.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from trex.config.schema import CropsConfig
from trex.images import color, draws


def apply_crop(image: torch.Tensor, draw: np.ndarray, size: int) -> np.ndarray:
    """Make the crop of an image that `draw` describes.

    Args:
        image: uint8 (1, 3, H, W), channels last in memory.
        draw: the operations on the crop, a row of the table of `draws.draw_crops`.
        size: side of the crop, pixels.

    Returns:
        uint8 (3, size, size).
    """
    top, left, height, width = (int(value) for value in draw[draws.TOP : draws.WIDTH + 1])
    cut = image[:, :, top : top + height, left : left + width]
    resized = F.interpolate(cut, size=(size, size), mode="bicubic", antialias=True)[0]
    planes = np.ascontiguousarray((resized.flip(-1) if draw[draws.FLIP] else resized).numpy())
    flat = planes.reshape(-1)
    n = size * size
    r, g, b = flat[:n], flat[n : 2 * n], flat[2 * n :]
    _jitter(flat, r, g, b, draw)
    if draw[draws.GRAYSCALE]:
        color.to_gray(r, g, b)
    if draw[draws.RADIUS]:
        color.blur(planes, *(int(value) for value in draw[draws.FULL_PIXELS : draws.EDGE_WEIGHT + 1]))
    if draw[draws.SOLARIZE]:
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
    for number, draw in enumerate(draws.draw_crops(height, width, config, seed, epoch, index)):
        crops.append(apply_crop(image, draw, config.global_size if number < config.global_count else config.local_size))
    if config.global_size == config.local_size or config.local_count == 0:
        return [np.stack(crops)]
    return [np.stack(crops[: config.global_count]), np.stack(crops[config.global_count :])]


def _jitter(flat: np.ndarray, r: np.ndarray, g: np.ndarray, b: np.ndarray, draw: np.ndarray) -> None:
    """Apply the four operations in their drawn order, rounding to bytes after each, as on PIL images."""
    for operation in draw[draws.ORDER : draws.ORDER + 4]:
        if operation == 0:
            color.blend(flat, np.float32(0), np.float32(draw[draws.BRIGHTNESS]))
        elif operation == 1:
            color.blend(flat, np.float32(color.mean_gray(r, g, b)), np.float32(draw[draws.CONTRAST]))
        elif operation == 2:
            color.saturate(r, g, b, np.float32(draw[draws.SATURATION]))
        elif operation == 3:
            color.shift_hue(r, g, b, int(draw[draws.SHIFT]))
