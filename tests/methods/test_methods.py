"""Rules that every training method in trex/methods/ must follow."""

from __future__ import annotations

import pytest
import torch

from trex.config import Config, load
from trex.config.loader import choices
from trex.distributed import Ranks
from trex.methods import method_named
from trex.training.network import build_network, network_on_meta

NAMES = choices("trex.methods")
SMALL = ["method.hidden_dim=8", "method.output_dim=6"]


def config_of(name: str) -> Config:
    sizes = [] if name == "supervised" else SMALL
    return load(None, Config, ["model.encoder=resnet18", f"method.name={name}", *sizes])


def test_the_three_methods_are_found() -> None:
    assert NAMES == ["supervised", "trex_class_means", "trex_plain"]
    assert [method_named(name)().name for name in NAMES] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_parts_that_a_method_names_exist_in_its_network(name: str) -> None:
    network = network_on_meta(config_of(name), 5)
    parts = dict(network.named_children())
    method = network.method
    for copy, original in method.copies.items():
        assert parts[copy].state_dict().keys() == parts[original].state_dict().keys()
        assert not any(parameter.requires_grad for parameter in parts[copy].parameters())
    assert set(method.reusable) <= parts.keys()
    if method.released_names:
        for key in network.state_dict():
            matching = [name for name in method.released_names if key == name or key.startswith(name)]
            assert len(matching) == 1, key


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_initial_weights_depend_on_the_seed_alone_and_copies_start_equal(name: str) -> None:
    config = config_of(name)
    before = torch.get_rng_state()
    one, same, other = (build_network(config, 5, Ranks(), seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["encoder.conv1.weight"], other["encoder.conv1.weight"])
    for copy, original in config.method.copies.items():
        for key in one:
            if key.startswith(f"{copy}."):
                assert torch.equal(one[key], one[original + key.removeprefix(copy)]), key
