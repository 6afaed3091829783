"""How wide an encoder's features are, known without building it. Imports no torch for torchvision's: submitting asks.

tests/model/test_widths.py builds every encoder of the table and compares.
"""

from __future__ import annotations

import functools

#: Numbers of a feature of torchvision's encoders.
_TORCHVISION = {
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


@functools.cache
def feature_dim(name: str) -> int:
    """How many numbers a feature of the encoder `name` has. An encoder that is not in the table, such as one of timm,
    is built without storage and asked, which imports torch.

    Raises:
        UserError: if there is no such encoder, or timm is asked for and not installed.
    """
    if name in _TORCHVISION:
        return _TORCHVISION[name]
    from trex.model.encoder import build_encoder_on_meta

    return build_encoder_on_meta(name).feature_dim
