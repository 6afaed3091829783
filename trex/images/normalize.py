"""Pixels to what the encoder takes, on the device: the host sends bytes, a quarter of what floats would be."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

#: ImageNet's mean and standard deviation per channel, of pixel values in 0 … 1.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalize(images: Tensor, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Tensor:
    """uint8 (N, 3, H, W) to float32 (x / 255 - mean) / std of the same shape, channels last in memory."""
    scaled = images.to(torch.float32).div_(255).sub_(_channels(mean, images.device)).div_(_channels(std, images.device))
    return scaled.contiguous(memory_format=torch.channels_last)


@functools.cache
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """One copy per device: copying them there makes the host wait."""
    return torch.tensor(values, device=device).view(1, 3, 1, 1)
