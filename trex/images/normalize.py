"""Normalizes images on the device. The host sends bytes, which are a quarter of the size of floats."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from trex.images.preprocessing import MEAN, STD


def normalize(images: Tensor, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Tensor:
    """Returns (images / 255 - mean) / std as float32, channels last in memory. `images` is uint8 (N, 3, H, W)."""
    scaled = images.to(torch.float32).div_(255).sub_(_channels(mean, images.device)).div_(_channels(std, images.device))
    return scaled.contiguous(memory_format=torch.channels_last)


@functools.cache
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """The values as a tensor (1, 3, 1, 1), cached per device: each copy to the device makes the host wait."""
    return torch.tensor(values, device=device).view(1, 3, 1, 1)
