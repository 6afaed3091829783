"""The sizes of encoders with torchvision's names, and of layers, known without building them.

Submitting and checking a job need them and must not import torch. tests/model/test_widths.py compares the table with
the encoders themselves.
"""

from __future__ import annotations

from typing import NamedTuple


class EncoderSize(NamedTuple):
    """The size of an encoder, all of whose parameters are float32."""

    features: int  #: the feature dimension
    parameters: int
    buffers: int  #: bytes of its other tensors: the running statistics of batch norms


class TensorBytes(NamedTuple):
    """What the tensors of some modules take in a checkpoint, bytes."""

    learned: int  #: parameters that the optimizer updates
    others: int


#: The encoders with torchvision's names.
TORCHVISION = {
    "resnet18": EncoderSize(512, 11_176_512, 38_560),
    "resnet34": EncoderSize(512, 21_284_672, 68_384),
    "resnet50": EncoderSize(2048, 23_508_032, 212_904),
    "resnet101": EncoderSize(2048, 42_500_160, 422_208),
    "resnet152": EncoderSize(2048, 58_143_808, 606_936),
    "resnext50_32x4d": EncoderSize(2048, 22_979_904, 273_320),
    "resnext101_32x8d": EncoderSize(2048, 86_742_336, 812_352),
    "resnext101_64x4d": EncoderSize(2048, 81_406_272, 812_352),
    "wide_resnet50_2": EncoderSize(2048, 66_834_240, 273_320),
    "wide_resnet101_2": EncoderSize(2048, 124_837_696, 552_256),
    "vit_b_16": EncoderSize(768, 85_798_656, 0),
    "vit_b_32": EncoderSize(768, 87_455_232, 0),
    "vit_l_16": EncoderSize(1024, 303_301_632, 0),
    "vit_l_32": EncoderSize(1024, 305_510_400, 0),
    "vit_h_14": EncoderSize(1280, 630_764_800, 0),
}


def is_resnet(name: str) -> bool:
    """Return whether `name` is a ResNet of the table: an encoder that can be trained, for images of any size."""
    return name in TORCHVISION and not name.startswith("vit_")


def linear_bytes(inputs: int, outputs: int, bias: bool = True) -> int:
    """Return the bytes of a linear layer's parameters, float32."""
    return 4 * outputs * (inputs + bias)


def batch_norm_bytes(channels: int) -> TensorBytes:
    """Return the bytes of a batch norm: weight and bias; running mean and variance, and the counter of batches."""
    return TensorBytes(8 * channels, 8 * channels + 8)
