"""The feature dimension of an encoder, known without building it.

Submitting a job needs it and must not import torch, so torchvision's encoders are in a table, which
tests/model/test_widths.py compares with the encoders themselves.
"""

from __future__ import annotations

import functools

#: Feature dimensions of the encoders that have torchvision's names.
TORCHVISION = {
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "resnet101": 2048,
    "resnet152": 2048,
    "resnext50_32x4d": 2048,
    "resnext101_32x8d": 2048,
    "resnext101_64x4d": 2048,
    "wide_resnet50_2": 2048,
    "wide_resnet101_2": 2048,
    "vit_b_16": 768,
    "vit_b_32": 768,
    "vit_l_16": 1024,
    "vit_l_32": 1024,
    "vit_h_14": 1280,
}


def is_resnet(name: str) -> bool:
    """Return whether `name` is a ResNet of the table: an encoder that can be trained, for images of any size."""
    return name in TORCHVISION and not name.startswith("vit_")


@functools.cache
def feature_dim(name: str) -> int:
    """Return the feature dimension of the encoder `name`.

    An encoder that is not in the table, such as a timm model, is built without storage, which imports torch.

    Raises:
        UserError: if there is no such encoder, or if it is a timm model and timm is not installed.
    """
    if name in TORCHVISION:
        return TORCHVISION[name]
    from trex.model.encoder import build_encoder_on_meta

    return build_encoder_on_meta(name).feature_dim
