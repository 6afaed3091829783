"""Exported files can be read by other programs, and their model cards describe them."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import load_file

from tests.records.examples import ENVIRONMENT, PROBE_RESULT
from tests.released import HIDDEN, OUTPUT, Released, Wrapped, two_groups
from trex.config import Config, load
from trex.config.loader import to_yaml
from trex.distributed import Ranks
from trex.errors import UserError
from trex.export.write import encoder_of, export, layout_of
from trex.features.source import state_digest
from trex.files import sha256, write_text
from trex.model.weights import read_encoder
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir
from trex.training.checkpoint import Checkpoints
from trex.training.network import build_network
from trex.training.state import Position, TrainingState, make_optimizer

CLASSES = ("0", "1", "2", "3", "4", "5", "6")


TREX = (f"method.hidden_dim={HIDDEN}", f"method.output_dim={OUTPUT}")
METHODS = {
    "trex_class_means": (*TREX, "method.memory_bank_size=96"),
    "trex_plain": ("method.name=trex_plain", *TREX),
    "supervised": ("method.name=supervised",),
}


def trained(
    root: Path,
    name: str = "little",
    finished: bool = True,
    method: str = "trex_class_means",
    more: tuple[str, ...] = (),
    scaler: torch.amp.GradScaler | None = None,
) -> RunDir:
    """A run with a checkpoint after one training step on random images."""
    settings = [f"name={name}", f"runs={root}/runs", "data.dataset=digits_seen", "model.encoder=resnet18"]
    config = load(None, Config, [*settings, *METHODS[method], "train.epochs=20", "optimizer.lr=0.0001", *more])
    torch.manual_seed(0)
    model = build_network(config, len(CLASSES), Ranks(), seed=3)
    optimizer = make_optimizer(model, config.optimizer)
    model([torch.randn(4, 3, 32, 32)], torch.tensor([0, 1, 2, 3])).loss.backward()
    optimizer.step()
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    at = Position(20, 0, 160) if finished else Position(3, 2, 26)
    state = TrainingState(model, optimizer, scaler, at).to_dict(Ranks(), config, CLASSES, "d" * 64)
    run = RunDir.of(config)
    Checkpoints(run.checkpoints).write({**state, "start": None}, keep=1, finished=finished)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunDir:
    return trained(tmp_path_factory.mktemp("home"))


def saved(run: RunDir) -> dict[str, Any]:
    newest = Checkpoints(run.checkpoints).newest()
    assert newest is not None
    return newest.load()


def test_encoder_file_has_torchvisions_keys_without_fc(run: RunDir, tmp_path: Path) -> None:
    export(run, tmp_path / "encoder.pth", "encoder", license=None)
    resnet = torchvision.models.resnet18()
    missing, unexpected = resnet.load_state_dict(torch.load(tmp_path / "encoder.pth", weights_only=True), strict=False)
    assert (sorted(missing), unexpected) == (["fc.bias", "fc.weight"], [])


@pytest.mark.slow
def test_encoder_file_of_resnet50_misses_only_fc(tmp_path: Path) -> None:
    config = load(None, Config, ["method.name=trex_plain", f"runs={tmp_path}", "name=fifty"])
    model = build_network(config, 7, Ranks(), seed=0)
    optimizer, scaler = make_optimizer(model, config.optimizer), torch.amp.GradScaler("cpu")
    state = TrainingState(model, optimizer, scaler, Position(1, 0, 8)).to_dict(Ranks(), config, CLASSES, "")
    Checkpoints(RunDir.of(config).checkpoints).write(state, keep=1)
    export(RunDir.of(config), tmp_path / "encoder.pth", "encoder", license=None)
    found = torchvision.models.resnet50().load_state_dict(
        torch.load(tmp_path / "encoder.pth", weights_only=True), strict=False
    )
    assert (sorted(found.missing_keys), found.unexpected_keys) == (["fc.bias", "fc.weight"], [])
    import timm

    timm.create_model("resnet50", checkpoint_path=str(tmp_path / "encoder.pth"), num_classes=0)


@pytest.mark.parametrize("name", ["encoder.pth", "encoder.pt", "model.safetensors", "x_checkpoint_full.pth"])
def test_every_kind_of_file_reads_back_bit_identical(run: RunDir, tmp_path: Path, name: str) -> None:
    export(run, tmp_path / name, layout_of(Path(name), None), license=None)
    found, expected = read_encoder(tmp_path / name, "resnet18"), encoder_of(saved(run))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_exported_encoder_gives_the_same_features_in_torchvision_and_timm(run: RunDir, tmp_path: Path) -> None:
    import timm

    export(run, tmp_path / "model.safetensors", "encoder", license=None)
    ours = build_network(load(None, Config, ["model.encoder=resnet18", *METHODS["trex_class_means"]]), 7, Ranks(), 0)
    ours.load_state_dict(saved(run)["model"])
    images = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    theirs = torchvision.models.resnet18()
    theirs.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)
    theirs.fc = torch.nn.Identity()
    path = str(tmp_path / "model.safetensors")
    in_timm = timm.create_model("resnet18", checkpoint_path=path, num_classes=0)
    with torch.inference_mode():
        expected = ours.eval().double().encoder(images)
        torch.testing.assert_close(theirs.eval().double()(images), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(in_timm.eval().double()(images), expected, rtol=1e-9, atol=1e-9)


def read_full(path: Path) -> dict[str, Any]:
    """Read a full checkpoint as another program does that trusts it with a Namespace and nothing else."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, weights_only=True)


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("hidden_layers", [1, 3])
@pytest.mark.parametrize("method", ["trex_class_means", "trex_plain"])
def test_full_file_loads_into_the_released_model_and_optimizer(
    tmp_path: Path, method: str, hidden_layers: int, normalized: bool
) -> None:
    more = (f"method.hidden_layers={hidden_layers}", f"method.normalize_input={normalized}")
    run = trained(tmp_path, method=method, more=more)
    export(run, tmp_path / "x_checkpoint_full.pth", "full", license=None)
    found = read_full(tmp_path / "x_checkpoint_full.pth")
    assert found.keys() == {"model", "optimizer", "epoch", "args", "trex"}
    assert found["epoch"] == 20
    has_memory = method == "trex_class_means"
    theirs = Wrapped(
        Released(memory=has_memory, clf=not has_memory, hidden_layers=hidden_layers, normalized=normalized)
    )
    theirs.load_state_dict(found["model"], strict=True)
    optimizer = torch.optim.SGD(two_groups(theirs), lr=0.1, momentum=0.9)
    optimizer.load_state_dict(found["optimizer"])
    ours = momentum_by_name(run)
    for name, parameter in theirs.named_parameters():
        if parameter.requires_grad:
            found_momentum = optimizer.state[parameter]["momentum_buffer"]
            assert found_momentum.any(), name
            assert torch.equal(found_momentum, ours[name]), name
    assert optimizer.param_groups[1]["weight_decay"] == 0.0


def momentum_by_name(run: RunDir) -> dict[str, torch.Tensor]:
    """SGD's momentum of a run's parameters under their released names, found without the code that converts names."""
    state = saved(run)
    write_text(run.config, to_yaml(state["config"]))
    config = load(run.config, Config)
    model = build_network(config, len(CLASSES), Ranks(), seed=0)
    optimizer = make_optimizer(model, config.optimizer)
    optimizer.load_state_dict(state["optimizer"])
    released = {"encoder": "model.encoder", "projector": "model.head.layers", "classifier": "clf.fc"}
    made = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part, _, rest = name.partition(".")
            made[f"module.{released[part]}.{rest}"] = optimizer.state[parameter]["momentum_buffer"]
    return made


def test_names_in_a_full_file_are_those_of_the_description(tmp_path: Path) -> None:
    run = trained(tmp_path, more=("method.hidden_layers=3",))
    export(run, tmp_path / "x_checkpoint_full.pth", "full", license=None)
    model = read_full(tmp_path / "x_checkpoint_full.pth")["model"]
    others = sorted(name for name in model if ".encoder." not in name)
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    layers = [f"{i}.fc.{k}" for i in (1, 2, 3) for k in ("weight", "bias")]
    layers += [f"{i}.bn.{k}" for i in (1, 2, 3) for k in norm]
    heads = [f"module.{net}.head.layers.{k}" for net in ("model", "model_ema") for k in [*layers, "4.weight"]]
    assert others == sorted([*heads, *(f"module.memory.{k}" for k in ("features", "labels", "ptr"))])
    resnet = [key for key in torchvision.models.resnet18().state_dict() if not key.startswith("fc.")]
    for net in ("model", "model_ema"):
        prefix = f"module.{net}.encoder."
        assert [name.removeprefix(prefix) for name in model if name.startswith(prefix)] == resnet
    assert model["module.memory.ptr"].shape == (1,)


def test_arguments_of_a_full_file_are_a_namespace_of_plain_values(run: RunDir, tmp_path: Path) -> None:
    export(run, tmp_path / "x_checkpoint_full.pth", "full", license=None)
    found = read_full(tmp_path / "x_checkpoint_full.pth")["args"]
    assert isinstance(found, argparse.Namespace)
    assert (found.arch, found.memory_size, found.mc_global_scale) == ("resnet18", 96, (0.4, 1.0))
    assert found.config == saved(run)["config"]


@pytest.mark.parametrize("enabled", [True, False])
def test_scaler_is_in_a_full_file_if_there_was_one(tmp_path: Path, enabled: bool) -> None:
    run = trained(tmp_path, scaler=torch.amp.GradScaler("cpu", init_scale=256.0, enabled=enabled))
    export(run, tmp_path / "x_checkpoint_full.pth", "full", license=None)
    found = read_full(tmp_path / "x_checkpoint_full.pth")
    assert ("fp16_scaler" in found) == enabled
    assert not enabled or found["fp16_scaler"]["scale"] == 256.0


def test_code_in_the_card_of_a_full_file_runs_as_written(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = export(run, tmp_path / "x_checkpoint_full.pth", "full", license=None)
    (code,) = re.findall(r"```python\n(.*?)```", done.card.read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["checkpoint"]["model"].keys() == read_full(tmp_path / "x_checkpoint_full.pth")["model"].keys()


def test_card_describes_the_weights_their_origin_and_their_scores(run: RunDir, tmp_path: Path) -> None:
    digest = state_digest(encoder_of(saved(run)))
    for dataset, encoder, top1 in (("digits_unseen", digest, 0.9375), ("pets", "another encoder's", 0.5)):
        result = replace(
            PROBE_RESULT,
            dataset=dataset,
            probe="exact",
            seed=0,
            test=replace(PROBE_RESULT.test, top1=top1),
            provenance=replace(PROBE_RESULT.provenance, encoder_digest=encoder),
        )
        result.write(run.probe(dataset, "exact", 0))
    ENVIRONMENT.append(run.events)
    MetricsLine("validation", 160, 20.0, {"top1": 81.25, "top5": 95.0}, 0.0).append(run.metrics)
    done = export(run, tmp_path / "encoder.pth", "encoder", license="CC-BY-4.0")
    text = done.card.read_text()
    assert done.card == tmp_path / "encoder.md"
    for expected in (
        "# little: resnet18", "`digits_seen`, 7 classes", "Training finished: 20 epochs, 160 steps",
        "torchvision.models.resnet18()", "top-1 81.25 %", "93.8", "hidden_dim: 32", "torch 2.14.1", "CC-BY-4.0.",
        sha256(tmp_path / "encoder.pth"), digest, "8 x X",
    ):  # fmt: skip
        assert expected in text, expected
    assert "pets" not in text, "this result is from other weights"
    assert str(tmp_path.parent) not in text, "the card must not contain local paths"


def test_unfinished_run_can_be_exported_and_the_card_says_so(tmp_path: Path) -> None:
    done = export(trained(tmp_path, finished=False), tmp_path / "encoder.pth", "encoder", license=None)
    assert not done.finished
    text = done.card.read_text()
    assert "**Training had not finished**: 3 of 20 epochs and 2 steps of the next one, 26 steps in total." in text
    assert "Not stated." in text


@pytest.mark.parametrize("existing", ["encoder.pth", "encoder.md"])
def test_existing_files_are_never_replaced(run: RunDir, tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("mine")
    with pytest.raises(UserError, match=f"{existing} exists already"):
        export(run, tmp_path / "encoder.pth", "encoder", license=None)
    assert [path.name for path in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "mine"


def test_run_without_a_checkpoint_says_to_train_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Train first: trex train nothing"):
        export(RunDir(tmp_path / "nothing"), tmp_path / "encoder.pth", "encoder", license=None)


@pytest.mark.parametrize(
    ("name", "asked", "expected"),
    [
        ("a.pth", None, "encoder"),
        ("a.safetensors", None, "encoder"),
        ("a_checkpoint_full.pth", None, "full"),
        ("a.pth", "full", "full"),
        ("a_checkpoint_full.pth", "encoder", "encoder"),
    ],
)
def test_layout_is_the_given_one_or_the_one_that_the_name_implies(name: str, asked: Any, expected: str) -> None:
    assert layout_of(Path(name), asked) == expected


@pytest.mark.parametrize(
    ("name", "asked", "expected"), [("a.bin", None, "ends in .pth"), ("a.safetensors", "full", "tensors only")]
)
def test_suffix_that_does_not_fit_the_layout_is_an_error(name: str, asked: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        layout_of(Path(name), asked)
