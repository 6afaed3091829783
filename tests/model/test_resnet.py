"""Our ResNets are torchvision's: keys, shapes, initial weights, features and gradients, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from trex.model.encoder import build_encoder, build_encoder_on_meta, encoder_names
from trex.model.sizes import is_resnet

NAMES = [name for name in encoder_names() if is_resnet(name)]


def shapes(network: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(key, value.shape) for key, value in network.state_dict().items() if not key.startswith("fc.")]


def test_all_resnets_and_vits_of_torchvision_are_known() -> None:
    families = ("resnet*", "wide_resnet*", "resnext*", "vit_*")
    assert encoder_names() == sorted(models.list_models(models, include=families))


@pytest.mark.parametrize("name", NAMES)
def test_resnet_has_torchvisions_keys_and_shapes(name: str) -> None:
    with torch.device("meta"):
        theirs = models.get_model(name, weights=None)
    assert shapes(build_encoder_on_meta(name)) == shapes(theirs)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_resnet_has_torchvisions_initial_weights_features_and_gradients(name: str) -> None:
    torch.manual_seed(3)
    ours, after = build_encoder(name), torch.rand(1)
    torch.manual_seed(3)
    theirs = models.get_model(name, weights=None).to(memory_format=torch.channels_last)
    assert torch.equal(torch.rand(1), after), "as many random numbers are drawn"
    theirs.fc = nn.Identity()
    for key, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key]), key
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(step(ours, images), step(theirs, images))
    for key, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key]), f"{key} after a step in training mode"
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None
        assert torch.equal(mine.grad, other.grad)


def step(network: nn.Module, images: Tensor) -> Tensor:
    features: Tensor = network.train()(images)
    features.square().mean().backward()
    return features.detach()
