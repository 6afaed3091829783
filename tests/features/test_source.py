"""Features come from the trained encoder, not from the momentum encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trex.config import Config
from trex.config.loader import load
from trex.distributed import Ranks
from trex.features.origin import origin
from trex.features.source import make_source, state_digest
from trex.records.run_dir import RunDir
from trex.training.checkpoint import Checkpoints
from trex.training.network import build_network


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load(None, Config, [f"runs={tmp_path}", "model.encoder=resnet18", "method.memory_bank_size=8"])


def test_trained_features_use_the_encoder_of_the_newest_checkpoint(config: Config) -> None:
    run = RunDir.of(config)
    model = build_network(config, 3, Ranks(), seed=5)
    with torch.no_grad():
        for parameter in model.momentum_encoder.parameters():
            parameter.zero_()
    for step in (1, 2):
        with torch.no_grad():
            model.encoder.conv1.weight.mul_(2)
        position = {"epoch": 0, "step": step, "global_step": step}
        Checkpoints(run.checkpoints).write({"position": position, "model": model.state_dict()}, keep=2)
    source = make_source(run, config, Ranks())
    assert source.digest == state_digest(model.encoder.state_dict())
    assert source.weights == origin(run, config).weights
    assert source.weights.startswith("epoch-0000-step-00000002, SHA-256 ")
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = model.encoder.eval()((images / 255 - mean) / std)
    assert torch.allclose(source.features(images), expected, atol=1e-4)


def test_digest_differs_for_other_weights_but_not_for_other_counters() -> None:
    state = {"w": torch.ones(2, 3), "bn.num_batches_tracked": torch.tensor(1)}
    assert state_digest(state) == state_digest({**state, "bn.num_batches_tracked": torch.tensor(9)})
    assert state_digest(state) != state_digest({**state, "w": torch.ones(3, 2)})
    assert state_digest(state) != state_digest({"v": state["w"]})
