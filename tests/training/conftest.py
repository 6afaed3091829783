"""A training that is small enough to run many times: 14 steps of a ResNet-18 on 224 real digits.

oneDNN is slow for such small images, about 10 ms per image and step, so the number of images decides how long the tests
take.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pictures import write_digits
from tests.released import released
from trex.config import Config, load
from trex.datasets.registry import load_split
from trex.records.run_dir import RunDir
from trex.training.network import network_on_meta
from trex.training.start import Start, read_start

TINY = """
data: {dataset: few_digits, workers: 0}
crops: {global_size: 16, local_size: 8, local_count: 2}
model: {encoder: resnet18}
optimizer: {lr: 0.05, warmup_epochs: 1}
train: {epochs: 2, batch_size: 32, precision: "off", log_every: 3}
checkpoint: {every_minutes: 0}
"""

#: The config section `method` of each method, with small networks.
METHODS = {
    "trex_class_means": "{name: trex_class_means, hidden_dim: 32, output_dim: 16, memory_bank_size: 96}",
    "trex_plain": "{name: trex_plain, hidden_dim: 32, output_dim: 16}",
    "supervised": "{name: supervised}",
}


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of seven classes with 32 training images and 10 test images each."""
    folder = tmp_path_factory.mktemp("few_digits") / "few_digits"
    write_digits(folder, train=32, val=10)
    return folder


@pytest.fixture
def tiny(tmp_path: Path, few_digits: Path):
    """Builds the tiny config with overrides; its runs are in the test's temporary folder."""

    def make(name: str, *overrides: str, method: str = "trex_class_means") -> Config:
        path = tmp_path / "tiny.yaml"
        fixed = (f"data.folders.few_digits={few_digits}",)
        path.write_text(f"{TINY}method: {METHODS[method]}\n")
        return load(path, Config, [*fixed, f"name={name}", f"runs={tmp_path}/runs", *overrides])

    return make


@pytest.fixture
def few_images(tmp_path: Path) -> str:
    """The override of the tiny config for a quarter of its images, in batches of 8, where many processes start."""
    write_digits(tmp_path / "fewer_digits", train=8, val=2)
    return f"data.folders.few_digits={tmp_path}/fewer_digits"


@pytest.fixture
def saved_run():
    """Writes a config into its run folder, as submitting a run does."""
    from jobs.plan.runs import save_config

    def save(config: Config) -> RunDir:
        run = RunDir.of(config)
        save_config(run, config)
        return run

    return save


def flat(value: object, prefix: str = "") -> dict[str, object]:
    """Return every leaf of a training state by its path."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in flat(item, f"{prefix}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, item in enumerate(value) for k, v in flat(item, f"{prefix}/{i}").items()}
    return {prefix: value}


def assert_same_bits(one: dict, other: dict) -> None:
    """Check that two training states are equal, tensors bit for bit, apart from settings that may differ."""
    ignored = ("/config/name", "/config/runs", "/config/data/workers", "/metrics_position", "/config/checkpoint")
    a = {k: v for k, v in flat(one).items() if not k.startswith(ignored)}
    b = {k: v for k, v in flat(other).items() if not k.startswith(ignored)}
    assert a.keys() == b.keys()
    assert any(isinstance(value, torch.Tensor) for value in a.values())
    for key, value in a.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, b[key]), f"{key} differs"
        else:
            assert value == b[key], f"{key}: {value} and {b[key]}"


def read_start_of(config: Config) -> Start:
    """Read the start file of a config, with a network that needs no memory."""
    images = load_split(config.data.dataset, "trainval", config.data)
    return read_start(config, network_on_meta(config, len(images.classes)), images.classes, 8)


@pytest.fixture(scope="session")
def full(tmp_path_factory) -> tuple[Path, Any, dict[str, Any]]:
    """A released full checkpoint with all parts that such a file can have."""
    path = tmp_path_factory.mktemp("zoo") / "x_checkpoint_full.pth"
    model, _, checkpoint = released(clf=True)
    torch.save(checkpoint, path)
    return path, model, checkpoint


def start_settings(path: Path, how: str, *more: str) -> list[str]:
    return [f"train.start={path}", f"train.start_with={how}", *more]
