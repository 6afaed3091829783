"""Measures the speed of the multi-crop pipeline and of the usual one (PIL and torchvision), with one thread.

The images are scikit-learn's two sample photographs, cropped to 500 x 375, which is common in ImageNet, and saved as
JPEG. Run: OMP_NUM_THREADS=1 .venv/bin/python tools/benchmark_crops.py
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision.transforms as T
from PIL import Image, ImageFilter, ImageOps
from sklearn.datasets import load_sample_images

from trex.config.schema import CropsConfig
from trex.images.crops import multi_crop
from trex.images.decode import read_rgb_fast

ROUNDS = 12


class _Blur:
    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, image: Image.Image) -> Image.Image:
        if torch.rand(()) >= self.probability:
            return image
        return image.filter(ImageFilter.GaussianBlur(float(torch.empty(()).uniform_(0.1, 2.0))))


def usual(crops: CropsConfig) -> Callable[[Path], list[torch.Tensor]]:
    """The usual pipeline: torchvision's transforms on PIL images."""

    def pipeline(size: int, scale: tuple[float, float], blur: float, solarize: float) -> T.Compose:
        jitter = T.ColorJitter(crops.brightness, crops.contrast, crops.saturation, crops.hue)
        return T.Compose(
            [
                T.RandomResizedCrop(size, scale=scale, interpolation=T.InterpolationMode.BICUBIC),
                T.RandomHorizontalFlip(crops.flip),
                T.RandomApply([jitter], p=crops.jitter),
                T.RandomGrayscale(crops.grayscale),
                _Blur(blur),
                T.RandomApply([T.Lambda(ImageOps.solarize)], p=solarize),
                T.ToTensor(),
                T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    large = pipeline(crops.global_size, crops.global_scale, crops.global_blur, crops.solarize)
    small = pipeline(crops.local_size, crops.local_scale, crops.local_blur, 0.0)

    def run(path: Path) -> list[torch.Tensor]:
        image = Image.open(path).convert("RGB")
        return [large(image)] + [small(image) for _ in range(crops.local_count)]

    return run


def photographs(folder: Path) -> list[Path]:
    """Write twelve JPEG files of 500 x 375 pixels. Returns their paths."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(12):
        image = Image.fromarray(load_sample_images().images[number % 2])
        left, top = int(rng.integers(0, image.width - 500)), int(rng.integers(0, image.height - 375))
        paths.append(folder / f"{number}.jpg")
        image.crop((left, top, left + 500, top + 375)).save(paths[-1], quality=90)
    return paths


def main() -> None:
    """Run the two pipelines alternately; print ms per image, images per second, and the ratio of the speeds."""
    torch.set_num_threads(1)
    crops = CropsConfig()
    with tempfile.TemporaryDirectory() as folder:
        paths, reference = photographs(Path(folder)), usual(crops)
        methods: dict[str, Callable[[int, Path], object]] = {
            "PIL and torchvision": lambda _epoch, path: reference(path),
            "this project": lambda epoch, path: multi_crop(read_rgb_fast(path), crops, 0, epoch, 0),
        }
        times: dict[str, list[float]] = {name: [] for name in methods}
        for epoch in range(ROUNDS + 1):  # the first round is not measured: it loads the compiled code
            for name, method in methods.items():
                began = time.perf_counter()
                for path in paths:
                    method(epoch, path)
                if epoch:
                    times[name].append((time.perf_counter() - began) / len(paths))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in medians.items():
        print(f"{name:20} {1000 * seconds:6.2f} ms per image, {1 / seconds:6.1f} images/s")
    print(f"ratio {medians['PIL and torchvision'] / medians['this project']:.1f}")


if __name__ == "__main__":
    main()
