"""A training small enough to be run many times: 16 steps of a ResNet-18 on real digits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trex.config import Config, load
from trex.records.run_dir import RunDir

TINY = """
data: {dataset: digits_seen, workers: 0}
crops: {global_size: 16, local_size: 8, local_count: 2}
model: {encoder: resnet18}
optimizer: {lr: 0.05, warmup_epochs: 1}
train: {epochs: 2, batch_size: 128, precision: "off", log_every: 3}
checkpoint: {every_minutes: 0}
"""

#: The section `method` of each method, small.
METHODS = {
    "trex_class_means": "{name: trex_class_means, hidden_dim: 32, output_dim: 16, memory_bank_size: 96}",
    "trex_plain": "{name: trex_plain, hidden_dim: 32, output_dim: 16}",
    "supervised": "{name: supervised}",
}


@pytest.fixture
def tiny(tmp_path: Path):
    """Makes the tiny config, with overrides on top; runs live in the test's folder."""

    def make(name: str, *overrides: str, method: str = "trex_class_means") -> Config:
        path = tmp_path / "tiny.yaml"
        path.write_text(f"{TINY}method: {METHODS[method]}\n")
        return load(path, Config, [f"name={name}", f"runs={tmp_path}/runs", *overrides])

    return make


@pytest.fixture
def saved_run():
    """Writes a config into its run folder, as submitting does."""
    from jobs.plan.runs import save_config

    def save(config: Config) -> RunDir:
        run = RunDir.of(config)
        save_config(run, config)
        return run

    return save


def flat(value: object, prefix: str = "") -> dict[str, object]:
    """Every leaf of a training state by its path."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in flat(item, f"{prefix}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, item in enumerate(value) for k, v in flat(item, f"{prefix}/{i}").items()}
    return {prefix: value}


def assert_same_bits(one: dict, other: dict) -> None:
    """Both training states hold the same values, tensors bit for bit; names of runs and file positions aside."""
    aside = ("/config/name", "/config/runs", "/config/data/workers", "/metrics_position", "/config/checkpoint")
    a = {k: v for k, v in flat(one).items() if not k.startswith(aside)}
    b = {k: v for k, v in flat(other).items() if not k.startswith(aside)}
    assert a.keys() == b.keys()
    assert any(isinstance(value, torch.Tensor) for value in a.values())
    for key, value in a.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, b[key]), f"{key} differs"
        else:
            assert value == b[key], f"{key}: {value} and {b[key]}"
