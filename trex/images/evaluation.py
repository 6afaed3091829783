"""The image that validation and feature extraction see: resized, then cropped at its center."""

from __future__ import annotations

import numpy as np
from PIL import Image

from trex.images.preprocessing import Geometry

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def evaluation_image(rgb: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Resize the image, then crop its center.

    The result is exactly that of torchvision's Resize and CenterCrop on the PIL image. torchvision itself is not used
    because its import takes two seconds, in every job and in every loader process that does not need an encoder.

    Args:
        rgb: uint8 (H, W, 3).
        geometry: the sizes and the interpolation.

    Returns:
        uint8 (3, crop, crop).
    """
    resize, crop = geometry.resize, geometry.crop
    height, width = rgb.shape[:2]
    shorter = min(height, width)
    if geometry.squash:
        height, width = resize, resize
    else:
        height, width = (resize if side == shorter else int(resize * side / shorter) for side in (height, width))
    resized = np.asarray(Image.fromarray(rgb).resize((width, height), _RESAMPLING[geometry.interpolation]))
    top, left = (round((side - crop) / 2) for side in (height, width))
    return resized[top : top + crop, left : left + crop].transpose(2, 0, 1).copy()
