"""The crops of a training image on one core: PIL and torchvision against the compiled code."""

from __future__ import annotations

import io
import math
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torchvision.transforms as T
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import functional as F

from tools.bench.alternate import alternate
from tools.bench.page import Row, Topic
from tools.bench.photographs import photographs
from tools.bench.usual_crops import UsualCrops
from trex.config.schema import CropsConfig
from trex.images import draws
from trex.images.crops import crop_shapes, multi_crop_into
from trex.images.decode import decoded_fast
from trex.images.normalize import normalize

ROUNDS = 5
TREX = CropsConfig(global_scale=(0.25, 1.0), local_scale=(0.05, 0.25))


def ours(contents: list[bytes], config: CropsConfig, float_out: bool) -> Callable[[int], object]:
    """Make the crops of all images into the same batch of one image, as bytes or as normalized float32."""
    batch = [np.empty((count, 1, 3, size, size), np.uint8) for count, size in crop_shapes(config)]

    def run(epoch: int) -> None:
        for index, content in enumerate(contents):
            multi_crop_into(batch, 0, decoded_fast("", content), config, 0, epoch, index)
            if float_out:
                for crops in batch:
                    normalize(torch.from_numpy(crops[:, 0]))

    return run


def pil_crop(image: Image.Image, draw: np.ndarray, size: int) -> np.ndarray:
    """The crop that PIL and torchvision make with the parameters of a row of `draws.draw_crops`."""
    box = [int(value) for value in draw[draws.TOP : draws.WIDTH + 1]]
    image = F.resized_crop(image, *box, [size, size], T.InterpolationMode.BICUBIC)
    image = F.hflip(image) if draw[draws.FLIP] else image
    jitter = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    factors = (draws.BRIGHTNESS, draws.CONTRAST, draws.SATURATION, draws.HUE)
    for operation in draw[draws.ORDER : draws.ORDER + 4].astype(int):
        if operation >= 0:
            image = jitter[operation](image, float(draw[factors[operation]]))
    image = F.rgb_to_grayscale(image, 3) if draw[draws.GRAYSCALE] else image
    if draw[draws.RADIUS]:
        image = image.filter(ImageFilter.GaussianBlur(float(draw[draws.RADIUS])))
    image = ImageOps.solarize(image, 128) if draw[draws.SOLARIZE] else image
    return np.asarray(image).transpose(2, 0, 1)


def quality(contents: list[bytes], config: CropsConfig) -> str:
    """PSNR of our crops against PIL's with the same parameters, both from the file; and the bounds."""
    batch, decibels = [np.empty((count, 1, 3, size, size), np.uint8) for count, size in crop_shapes(config)], []
    for index, content in enumerate(contents):
        table = multi_crop_into(batch, 0, decoded_fast("", content), config, 0, 0, index)
        image = Image.open(io.BytesIO(content)).convert("RGB")
        for draw, crop in zip(table, (crop[0] for crops in batch for crop in crops), strict=True):
            error = np.mean((crop - pil_crop(image, draw, crop.shape[1]).astype(np.float64)) ** 2)
            decibels.append(10 * math.log10(255**2 / max(error, 1e-9)))
    return f"PSNR mean {statistics.mean(decibels):.1f} dB (≥ 50), min {min(decibels):.1f} dB (≥ 40)"


def rows() -> Iterator[Row]:
    """Both recipes' crops, without and with normalization."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        contents = [path.read_bytes() for path in photographs(Path(folder))]
    for name, config in (("trex_star", CropsConfig()), ("trex", TREX)):
        psnr = quality(contents, config)
        for float_out in (False, True):
            usual = UsualCrops(config, float_out)
            times = alternate(
                lambda _round, usual=usual: [usual(content) for content in contents],  # type: ignore[misc]
                ours(contents, config, float_out),
                ROUNDS,
            )
            yield Row(
                what=f"{name}, 1 × 224 + 8 × 96, {'both normalized float32' if float_out else 'ToTensor / uint8'}",
                usual=f"{1000 * times.usual_median / len(contents):.2f} ms per image",
                ours=f"{1000 * times.ours_median / len(contents):.2f} ms per image",
                ratio=times.spread,
                goal="" if float_out else "≥ 6, target 8",
                quality=psnr,
            )


TOPIC = Topic(
    title="Crops of a training image",
    about=(
        "From the bytes of a JPEG file to all crops of an image, seconds of CPU of one thread. Usual: PIL, and "
        "torchvision's transforms (RandomResizedCrop bicubic, flip, ColorJitter, gray, Pillow's GaussianBlur, "
        "solarize, ToTensor, and in the rows with normalization Normalize). Ours: libjpeg-turbo and compiled code; "
        "crops are bytes, which the device normalizes; in the rows with normalization they are normalized on the same "
        "core. 120 photographs of 500 × 375, both with random numbers of their own."
    ),
    rows=rows,
)
