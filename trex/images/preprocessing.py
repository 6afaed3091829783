"""How an image is resized, cropped and normalized before an encoder sees it. This module imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

#: ImageNet's mean and standard deviation per channel, for pixel values in 0 … 1.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

Interpolation = Literal["bicubic", "bilinear"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)


@dataclass(frozen=True)
class Geometry:
    """The resize and the center crop of an image, in pixels."""

    resize: int  #: shorter side after resizing; both sides if `squash`
    crop: int  #: side of the center crop, at most `resize`
    interpolation: Interpolation = "bicubic"
    squash: bool = False  #: whether both sides become `resize`, whatever the image's proportions

    def __str__(self) -> str:
        sides = "both sides to " if self.squash else ""
        return f"resize {sides}{self.resize} {self.interpolation}, center crop {self.crop}"


@dataclass(frozen=True)
class Preprocessing:
    """Everything that happens to an image between its file and the encoder."""

    choice: str  #: `extract.preprocess`, and whether the sizes are others than its own
    geometry: Geometry
    mean: tuple[float, ...]  #: per channel, subtracted from pixel values in 0 … 1
    std: tuple[float, ...]  #: per channel, a divisor

    def __str__(self) -> str:
        mean, std = (" ".join(f"{value:.6g}" for value in values) for values in (self.mean, self.std))
        return f"{self.choice}: {self.geometry}, mean {mean}, std {std}"
