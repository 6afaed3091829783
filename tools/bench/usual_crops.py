"""The usual multi-crop pipeline: torchvision's transforms on PIL images, in a Dataset."""

from __future__ import annotations

import io
from pathlib import Path

import torch
import torchvision.transforms as T
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from trex.config.schema import CropsConfig
from trex.images.preprocessing import MEAN, STD


class _Blur:
    def __init__(self, radius: tuple[float, float]) -> None:
        self.radius = radius

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(float(torch.empty(()).uniform_(*self.radius))))


class UsualCrops:
    """Makes the crops of an image with random numbers of torch."""

    def __init__(self, crops: CropsConfig, normalize: bool) -> None:
        self.crops, self.normalize = crops, normalize
        self.large = self._pipeline(crops.global_size, crops.global_scale, crops.global_blur, crops.solarize)
        self.small = self._pipeline(crops.local_size, crops.local_scale, crops.local_blur, 0.0)

    def _pipeline(self, size: int, scale: tuple[float, float], blur: float, solarize: float) -> T.Compose:
        crops = self.crops
        jitter = T.ColorJitter(crops.brightness, crops.contrast, crops.saturation, crops.hue)
        return T.Compose(
            [
                T.RandomResizedCrop(size, scale=scale, interpolation=T.InterpolationMode.BICUBIC),
                T.RandomHorizontalFlip(crops.flip),
                T.RandomApply([jitter], p=crops.jitter),
                T.RandomGrayscale(crops.grayscale),
                T.RandomApply([_Blur(crops.blur_radius)], p=blur),
                T.RandomApply([T.Lambda(ImageOps.solarize)], p=solarize),
                T.ToTensor(),
                *([T.Normalize(MEAN, STD)] if self.normalize else []),
            ]
        )

    def __call__(self, content: bytes) -> list[Tensor]:
        """The crops of an image file as float32 (3, S, S), global crops first."""
        image = Image.open(io.BytesIO(content)).convert("RGB")
        large = [self.large(image) for _ in range(self.crops.global_count)]
        return large + [self.small(image) for _ in range(self.crops.local_count)]


class UsualDataset(Dataset[tuple[list[Tensor], int]]):
    """Image files and their crops, as most training programs read them."""

    def __init__(self, paths: list[Path], crops: CropsConfig, normalize: bool) -> None:
        self.paths, self.crops = paths, UsualCrops(crops, normalize)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[list[Tensor], int]:
        return self.crops(self.paths[index].read_bytes()), 0
