"""The image that validation and feature extraction see: resized, then cropped at its center."""

from __future__ import annotations

import numpy as np
from PIL import Image


def evaluation_image(rgb: np.ndarray, resize: int, crop: int) -> np.ndarray:
    """Resize the shorter side to `resize` (bicubic), then crop the center.

    The result is exactly that of torchvision's Resize and CenterCrop on the PIL image. torchvision itself is not used
    because its import takes two seconds, in every job and in every loader process that does not need an encoder.

    Args:
        rgb: uint8 (H, W, 3).
        resize: shorter side after resizing, pixels.
        crop: side of the crop, pixels; at most `resize`.

    Returns:
        uint8 (3, crop, crop).
    """
    height, width = rgb.shape[:2]
    shorter = min(height, width)
    height, width = (resize if side == shorter else int(resize * side / shorter) for side in (height, width))
    resized = np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC))
    top, left = (round((side - crop) / 2) for side in (height, width))
    return resized[top : top + crop, left : left + crop].transpose(2, 0, 1).copy()
