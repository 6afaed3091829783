"""The size of any encoder, which submitting and checking a job need.

Encoders with torchvision's names are in a table, because submitting a job must not import torch.
"""

from __future__ import annotations

import functools

from trex.model.sizes import TORCHVISION, EncoderSize


@functools.cache
def encoder_size(name: str) -> EncoderSize:
    """Return the size of the encoder `name`.

    An encoder that is not in the table, such as a timm model, is built without storage, which imports torch.

    Raises:
        UserError: if there is no such encoder, or if it is a timm model and timm is not installed.
    """
    if name in TORCHVISION:
        return TORCHVISION[name]
    from trex.model.encoder import build_encoder_on_meta

    encoder = build_encoder_on_meta(name)
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    return EncoderSize(encoder.feature_dim, parameters, sum(buffer.nbytes for buffer in encoder.buffers()))


def feature_dim(name: str) -> int:
    """Return the feature dimension of the encoder `name`; see `encoder_size`."""
    return encoder_size(name).features
