"""Encoders: ResNets can be trained and evaluated, torchvision's ViTs and timm's models only evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trex.errors import UserError
from trex.images.preprocessing import MEAN, STD
from trex.model.resnet import resnet_layers
from trex.model.sizes import TORCHVISION, is_resnet
from trex.model.timm_names import TIMM, import_timm
from trex.wording import did_you_mean


class Encoder(nn.Module):
    """A module that turns images into features. Its attributes say which images it expects."""

    feature_dim: int
    image_size: int | None = None  #: the only image size that it accepts, in pixels per side; None if it accepts any
    mean: tuple[float, ...] = MEAN  #: per channel, of the images that it was trained on, with pixel values in 0 … 1
    std: tuple[float, ...] = STD  #: standard deviation per channel, as `mean`


class ResNet(Encoder):
    """A ResNet without its classifier; the state dict has torchvision's keys without `fc.*`."""

    def __init__(self, name: str) -> None:
        super().__init__()
        for key, layer in resnet_layers(name).named_children():
            self.add_module(key, layer)
        self.feature_dim = TORCHVISION[name].features

    def forward(self, images: Tensor) -> Tensor:
        """Compute the output of the average pool.

        Args:
            images: (N, 3, H, W), normalized.

        Returns:
            (N, feature_dim).
        """
        x = images
        for child in self.children():
            x = child(x)
        return torch.flatten(x, 1)


class VisionTransformer(Encoder):
    """A torchvision ViT without its classifier; the state dict has torchvision's keys without `heads.*`."""

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.class_token, self.conv_proj, self.encoder = vit.class_token, vit.conv_proj, vit.encoder
        self.feature_dim, self.image_size = int(vit.hidden_dim), int(vit.image_size)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the class token after the last block and the final layer norm: the input of torchvision's classifier.

        Args:
            images: (N, 3, image_size, image_size), normalized.

        Returns:
            (N, feature_dim).
        """
        patches = self.conv_proj(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), patches], dim=1)
        return self.encoder(tokens)[:, 0]  # type: ignore[no-any-return]


class TimmEncoder(Encoder):
    """A timm model without its classifier (`num_classes=0`); the state dict has timm's keys without the classifier."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        cfg = network.pretrained_cfg
        self.feature_dim = int(getattr(network, "head_hidden_size", network.num_features))
        self.image_size = int(cfg["input_size"][-1]) if cfg.get("fixed_input_size") else None
        self.mean, self.std = tuple(cfg["mean"]), tuple(cfg["std"])

    def forward(self, images: Tensor) -> Tensor:
        """Compute the input of timm's classifier.

        This is the output of `forward_features`, pooled as the model's `global_pool` says (the class token for most
        ViTs, the average for other models), after the layers of the model's head before its last one.

        Args:
            images: (N, 3, H, W), normalized by `mean` and `std`.

        Returns:
            (N, feature_dim).
        """
        features: Tensor = self.network(images)
        return features

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the state dict of the timm model, so that files have timm's keys."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state dict of the timm model."""
        return self.network.load_state_dict(state_dict, strict, assign)


def encoder_names() -> list[str]:
    """Return torchvision's names of the encoders that can be built: ResNets, wide ResNets, ResNeXts, ViTs."""
    return sorted(TORCHVISION)


def build_encoder(name: str) -> Encoder:
    """Build an encoder with its library's initial weights, drawn from torch's global generator.

    Args:
        name: a name from `encoder_names()`, or `timm/` followed by a model name of timm, with or without a tag.

    Raises:
        UserError: if there is no such encoder, or if it is a timm model and timm is not installed.
    """
    if name.startswith(TIMM):
        return _timm(name)
    known = encoder_names()
    if name not in known:
        raise UserError(
            f"model.encoder is {name!r}: expected one of {', '.join(known)}, or timm/ followed by a model name of timm"
            f"{did_you_mean(name, known)}"
        )
    encoder = ResNet(name) if is_resnet(name) else _vision_transformer(name)
    return encoder.to(memory_format=torch.channels_last)


def initial_encoder(name: str, seed: int) -> Encoder:
    """Build an encoder with the initial weights that a run with this seed has; they depend on `seed` alone.

    The global random state does not change.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_encoder(name)


def require_trainable(name: str) -> None:
    """Raise UserError unless the encoder can be trained.

    Multi-crop training needs an encoder that accepts crops of any size and whose batch norms can be synchronized. The
    ResNets are such encoders.
    """
    if not is_resnet(name):
        build_encoder_on_meta(name)  # an unknown name gets its own error
        trainable = ", ".join(filter(is_resnet, encoder_names()))
        raise UserError(
            f"model.encoder is {name!r}: it can be evaluated, not trained. Encoders that can be trained: {trainable}. "
            f"To evaluate it, set extract.weights=FILE (or untrained) and run `trex extract` and `trex probe`, or "
            f"`trex run`"
        )


def build_encoder_on_meta(name: str) -> Encoder:
    """Build an encoder without storage, for its names and shapes; see `build_encoder`."""
    with torch.device("meta"):
        return build_encoder(name)


def _vision_transformer(name: str) -> Encoder:
    from torchvision import models  # here, because it takes 1.5 s, and jobs with other encoders do not need it

    return VisionTransformer(models.get_model(name, weights=None))


def _timm(name: str) -> Encoder:
    timm = import_timm(name)
    try:
        return TimmEncoder(timm.create_model(name.removeprefix(TIMM), pretrained=False, num_classes=0))
    except RuntimeError as error:  # an unknown tag
        raise UserError(f"model.encoder is {name!r}: {error}") from error
