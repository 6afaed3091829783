"""The encoder: a torchvision ResNet up to its average pool."""

from __future__ import annotations

import difflib

import torch
import torchvision
from torch import Tensor, nn

from trex.errors import UserError


class Encoder(nn.Module):
    """A ResNet without its classifier; the state dict has torchvision's keys less `fc.*`."""

    def __init__(self, resnet: nn.Module) -> None:
        super().__init__()
        for name, child in resnet.named_children():
            if name != "fc":
                self.add_module(name, child)
        self.feature_dim = int(resnet.fc.in_features)  # type: ignore[union-attr, arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Average-pooled features.

        Args:
            images: (N, 3, H, W), normalised.

        Returns:
            (N, feature_dim).
        """
        x = images
        for child in self.children():
            x = child(x)
        return torch.flatten(x, 1)


def encoder_names() -> list[str]:
    """Names of the encoders that can be built: torchvision's ResNets, wide ResNets and ResNeXts."""
    return sorted(torchvision.models.list_models(torchvision.models, include=["resnet*", "wide_resnet*", "resnext*"]))


def build_encoder(name: str) -> Encoder:
    """The encoder of that name with torchvision's initial weights, drawn from torch's global generator.

    Raises:
        UserError: if torchvision has no ResNet of that name.
    """
    known = encoder_names()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UserError(f"model.encoder is {name!r}: expected one of {', '.join(known)}{hint}")
    encoder = Encoder(torchvision.models.get_model(name, weights=None))
    return encoder.to(memory_format=torch.channels_last)
