"""The image that validation and feature extraction see: resized, then cropped at its center."""

from __future__ import annotations

import numpy as np
from PIL import Image

from trex.images.preprocessing import Geometry

#: The most pixels of a resized image. More would be those of a thin strip: 450,000 rows for 2000 x 1 pixels.
_MOST_PIXELS = 1 << 24
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def evaluation_image(rgb: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Resize the image, then crop its center.

    The result is exactly that of torchvision's Resize and CenterCrop on the PIL image. Of a strip that is hundreds of
    times as long as wide only the part in the crop is resized, and a few gray levels may differ, because Pillow then
    resizes the two directions in another order. torchvision itself is not used because its import takes two seconds, in
    every job and in every loader process that does not need an encoder.

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
    image, resampling = Image.fromarray(rgb), _RESAMPLING[geometry.interpolation]
    top, left = (round((side - crop) / 2) for side in (height, width))
    if height * width > _MOST_PIXELS:
        down, right = rgb.shape[0] / height, rgb.shape[1] / width
        box = (left * right, top * down, (left + crop) * right, (top + crop) * down)
        return np.asarray(image.resize((crop, crop), resampling, box=box)).transpose(2, 0, 1).copy()
    resized = np.asarray(image.resize((width, height), resampling))
    return resized[top : top + crop, left : left + crop].transpose(2, 0, 1).copy()
