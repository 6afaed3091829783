"""Training that starts from a file: which parts are loaded, and how an exported run continues."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from tests.released import EPOCH, released, shrunk
from tests.stopping import StopAfter
from tests.training.conftest import METHODS, assert_same_bits, flat, read_start_of, start_settings
from tests.training.test_resume import final_state, finish, run_to_end
from trex.config import Config
from trex.distributed import Ranks
from trex.errors import Interrupted, UserError
from trex.export.write import export
from trex.files import sha256
from trex.interruption import StopRequest
from trex.records.events import TrainingStarted, read_events
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir
from trex.training.checkpoint import Checkpoints
from trex.training.network import build_network
from trex.training.state import Position, TrainingState
from trex.training.trainer import Trainer, train

#: This project's names of the parts and the released ones, written by hand and not taken from the code.
RELEASED_NAMES = {
    "encoder": "module.model.encoder",
    "projector": "module.model.head.layers",
    "momentum_encoder": "module.model_ema.encoder",
    "momentum_projector": "module.model_ema.head.layers",
}


def initial_state(run: RunDir, config: Config) -> TrainingState:
    """Return the training state before the first step."""
    trainer = Trainer(run, config, Ranks(), StopRequest())
    try:
        trainer.resume(None)
        return trainer.state
    finally:
        trainer.close()


def projector_settings(hidden_layers: int, normalized: bool) -> tuple[str, ...]:
    return f"method.hidden_layers={hidden_layers}", f"method.normalize_input={normalized}"


@pytest.mark.parametrize("method", METHODS)
def test_start_with_encoder_loads_the_encoder_and_initializes_everything_else(
    tiny, saved_run, full, method: str
) -> None:
    path, released_model, _ = full
    config = tiny("a", *start_settings(path, "encoder"), method=method)
    state = initial_state(saved_run(config), config)
    initial = build_network(config, 7, Ranks(), config.train.seed).state_dict()
    theirs = released_model.module.model.encoder.state_dict()
    for key, value in state.model.state_dict().items():
        part, _, rest = key.partition(".")
        expected = theirs[rest] if part in ("encoder", "momentum_encoder") else initial[key]
        assert torch.equal(value, expected), key
    assert not any(value["momentum_buffer"].any() for value in state.optimizer.state.values())
    assert state.position.global_step == 0


def test_start_with_weights_loads_encoder_and_projector_but_no_optimizer_state(tiny, saved_run, full) -> None:
    path, _, checkpoint = full
    config = tiny("a", *start_settings(path, "weights", "train.epochs=1"))
    state = initial_state(saved_run(config), config)
    saved = state.model.state_dict()
    for ours, theirs in {
        **RELEASED_NAMES,
        "momentum_encoder": RELEASED_NAMES["encoder"],
        "momentum_projector": RELEASED_NAMES["projector"],
    }.items():
        keys = [key for key in saved if key.startswith(f"{ours}.")]
        assert keys
        for key in keys:
            assert torch.equal(saved[key], checkpoint["model"][theirs + key.removeprefix(ours)]), key
    assert not torch.equal(saved["classifier.features"], checkpoint["model"]["module.memory.features"])
    assert not any(value["momentum_buffer"].any() for value in state.optimizer.state.values())
    assert state.position.epoch == 0


@pytest.mark.parametrize("clf", [True, False])
@pytest.mark.parametrize(("hidden_layers", "normalized"), [(1, True), (3, True), (1, False), (3, False)])
def test_start_with_all_loads_all_parts_of_a_released_checkpoint(
    tiny, saved_run, tmp_path: Path, hidden_layers: int, normalized: bool, clf: bool
) -> None:
    model, optimizer, checkpoint = released(clf=clf, hidden_layers=hidden_layers, normalized=normalized)
    torch.save(checkpoint, tmp_path / "full.pth")
    settings = ("train.precision=fp16", *projector_settings(hidden_layers, normalized))
    config = tiny("a", *start_settings(tmp_path / "full.pth", "all", *settings))
    state = initial_state(saved_run(config), config)
    theirs = checkpoint["model"]
    for key, value in state.model.state_dict().items():
        if key.startswith("classifier."):
            name = {"features": "features", "labels": "labels", "pointer": "ptr"}[key.removeprefix("classifier.")]
            assert torch.equal(value, theirs[f"module.memory.{name}"].reshape(value.shape))
        else:
            part, _, rest = key.partition(".")
            assert torch.equal(value, theirs[f"{RELEASED_NAMES[part]}.{rest}"]), key
    by_name = dict(model.named_parameters())
    for name, parameter in state.model.named_parameters():
        if parameter.requires_grad:
            part, _, rest = name.partition(".")
            expected = optimizer.state[by_name[f"{RELEASED_NAMES[part]}.{rest}"]]["momentum_buffer"]
            assert expected.any()
            assert torch.equal(state.optimizer.state[parameter]["momentum_buffer"], expected), name
    assert state.scaler.get_scale() == 512.0
    assert (state.position.epoch, state.position.step) == (EPOCH, 0)
    assert state.position.global_step > 0


@pytest.mark.parametrize(("hidden_layers", "normalized"), [(1, True), (3, True), (1, False)])
@pytest.mark.parametrize("amp", [True, False])
def test_start_with_all_loads_the_learned_class_weights_of_a_plain_recipe(
    tiny, saved_run, tmp_path: Path, hidden_layers: int, normalized: bool, amp: bool
) -> None:
    _, _, checkpoint = released(amp=amp, memory=False, clf=True, hidden_layers=hidden_layers, normalized=normalized)
    assert ("fp16_scaler" in checkpoint) == amp
    torch.save(checkpoint, tmp_path / "full.pth")
    settings = ("train.precision=fp16", *projector_settings(hidden_layers, normalized))
    config = tiny("a", *start_settings(tmp_path / "full.pth", "all", *settings), method="trex_plain")
    state = initial_state(saved_run(config), config)
    assert torch.equal(state.model.classifier.weight, checkpoint["model"]["module.clf.fc.weight"])
    assert state.model.classifier.weight in state.optimizer.state
    assert state.scaler.get_scale() == (512.0 if amp else 65536.0)


def test_checkpoint_without_the_prefix_of_ddp_is_the_same(tiny, full, tmp_path: Path) -> None:
    checkpoint = copy.deepcopy(shrunk(full[2]))
    checkpoint["model"] = {key.removeprefix("module."): value for key, value in checkpoint["model"].items()}
    torch.save(checkpoint, tmp_path / "bare.pth")
    torch.save(shrunk(full[2]), tmp_path / "wrapped.pth")
    bare, wrapped = (
        read_start_of(tiny("a", *start_settings(tmp_path / name, "all"))) for name in ("bare.pth", "wrapped.pth")
    )
    assert bare.model.keys() == wrapped.model.keys()
    assert bare.momentum.keys() == wrapped.momentum.keys()


@pytest.mark.parametrize(("hidden_layers", "normalized"), [(1, True), (3, True), (1, False), (3, False)])
def test_projector_gives_the_same_outputs_as_the_released_one(
    tiny, saved_run, tmp_path: Path, hidden_layers: int, normalized: bool
) -> None:
    model, _, checkpoint = released(hidden_layers=hidden_layers, normalized=normalized)
    torch.save(checkpoint, tmp_path / "full.pth")
    settings = projector_settings(hidden_layers, normalized)
    config = tiny("a", *start_settings(tmp_path / "full.pth", "weights", *settings))
    ours, theirs = initial_state(saved_run(config), config).model.eval(), model.module.model.eval()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)  # in float32, the two round differently
    with torch.inference_mode():
        ours, theirs = ours.double(), theirs.double()
        torch.testing.assert_close(ours.projector(ours.encoder(images)), theirs(images), rtol=1e-10, atol=1e-10)


def test_names_of_the_start_file_are_mapped_and_the_record_says_so(tiny, full, tmp_path: Path) -> None:
    theirs = shrunk(dict(full[1].module.model.encoder.state_dict()))
    torch.save({f"net.{key}": value for key, value in theirs.items()}, tmp_path / "net.pth")
    settings = start_settings(tmp_path / "net.pth", "encoder")
    with pytest.raises(UserError, match=r"holds a resnet18 under 'net\.'\. To use the first, set train\.key_map to"):
        read_start_of(tiny("a", *settings))
    (tmp_path / "map.yaml").write_text("'net.': ''\n")
    start = read_start_of(tiny("a", *settings, f"train.key_map={tmp_path}/map.yaml"))
    assert torch.equal(start.model["encoder.layer1.0.conv1.weight"], theirs["layer1.0.conv1.weight"])
    mapped = {"key_map": f"{tmp_path}/map.yaml", "key_map_sha256": sha256(tmp_path / "map.yaml")}
    assert start.record == {
        "file": f"{tmp_path}/net.pth", "sha256": sha256(tmp_path / "net.pth"), "with": "encoder", **mapped
    }  # fmt: skip


@pytest.mark.slow
def test_released_checkpoint_continues_to_the_end_and_the_run_records_it(tiny, saved_run, full) -> None:
    path = full[0]
    config = tiny("on", *start_settings(path, "all"))
    run = saved_run(config)
    finish(run, config)
    saved = final_state(run)
    steps = {line.step for line in MetricsLine.read_lines(run.metrics).strict() if line.phase == "train"}
    assert min(steps) > saved["position"]["global_step"] // 2  # the second of two epochs only
    record = {"file": str(path), "sha256": sha256(path), "with": "all"}
    assert saved["start"] == record
    assert next(e for e in read_events(run.events).strict() if isinstance(e, TrainingStarted)).start == record


# ---- a run that is exported and continued ends like one that was never stopped


def train_until_stopped(config: Config, run: RunDir, checks: int) -> None:
    with pytest.raises(Interrupted):
        train(run, config, Ranks(), StopAfter(checks))


def assert_same_training(one: dict, other: dict) -> None:
    parts = ("model", "optimizer", "scaler", "position")
    assert_same_bits({part: one[part] for part in parts}, {part: other[part] for part in parts})
    assert len(flat(one["model"])) > 100


@pytest.mark.parametrize(("hidden_layers", "normalized"), [(1, True), (3, False)])
@pytest.mark.parametrize("precision", ["fp16", "off"])
@pytest.mark.parametrize("method", ["trex_class_means", "trex_plain"])
def test_exported_state_is_read_back_with_the_same_bits(
    tiny, saved_run, tmp_path: Path, method: str, precision: str, hidden_layers: int, normalized: bool
) -> None:
    settings = (f"train.precision={precision}", *projector_settings(hidden_layers, normalized))
    config = tiny("first", *settings, method=method)
    run = saved_run(config)
    state = initial_state(run, config)
    torch.manual_seed(5)
    for buffer in (value["momentum_buffer"] for value in state.optimizer.state.values()):
        buffer.copy_(torch.randn_like(buffer))
    for key, value in state.model.state_dict().items():  # every tensor differs from its initial value
        value.copy_(
            torch.randint_like(value, 7) if key.endswith("labels") else value + (value.dtype.is_floating_point or 3)
        )
    if state.scaler.is_enabled():
        scaler = {"scale": 128.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
        state.scaler.load_state_dict({**scaler, "_growth_tracker": 3})
    state.position = Position(1, 2, 9)
    saved = state.to_dict(Ranks(), config, tuple(map(str, range(7))), "d" * 64)
    Checkpoints(run.checkpoints).write({**saved, "start": None}, keep=1)
    export(run, tmp_path / "x_checkpoint_full.pth", "full", license=None)
    config = tiny("second", *start_settings(tmp_path / "x_checkpoint_full.pth", "all", *settings), method=method)
    found = initial_state(saved_run(config), config).to_dict(Ranks(), config, tuple(map(str, range(7))), "d" * 64)
    assert_same_training(saved, found)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["trex_class_means", "trex_plain"])
def test_run_continued_from_its_export_ends_with_the_same_bits(tiny, saved_run, tmp_path: Path, method: str) -> None:
    torch.set_num_threads(1)
    reference, first = tiny("reference", method=method), tiny("first", method=method)
    finish(saved_run(reference), reference)
    run = saved_run(first)
    train_until_stopped(first, run, 7)  # in the first epoch
    export(run, tmp_path / "ours_checkpoint_full.pth", "full", license=None)
    second = tiny("second", *start_settings(tmp_path / "ours_checkpoint_full.pth", "all"), method=method)
    run = saved_run(second)
    train_until_stopped(second, run, 5)
    (tmp_path / "ours_checkpoint_full.pth").unlink()  # it is not read again
    finish(run, second)
    assert_same_training(final_state(RunDir.of(reference)), final_state(run))
    assert final_state(run)["start"]["with"] == "all"


@pytest.mark.slow
def test_supervised_run_continued_from_its_checkpoint_ends_with_the_same_bits(tiny, saved_run) -> None:
    torch.set_num_threads(1)
    settings = ("crops.local_count=0",)
    reference = tiny("reference", *settings, "checkpoint.keep=9", method="supervised")
    run = saved_run(reference)
    finish(run, reference)
    half = min(run.checkpoints.glob("epoch-0001-*")) / "checkpoint.pt"
    second = tiny("second", *settings, *start_settings(half, "all"), method="supervised")
    finish(saved_run(second), second)
    assert_same_training(final_state(run), final_state(RunDir.of(second)))


@pytest.mark.slow
def test_two_ranks_continued_from_a_file_end_with_the_same_bits(tiny, saved_run) -> None:
    reference = tiny("reference", "checkpoint.keep=9")
    run = saved_run(reference)
    run_to_end(reference, 2)
    half = min(run.checkpoints.glob("epoch-0001-*")) / "checkpoint.pt"
    second = tiny("second", *start_settings(half, "all"))
    saved_run(second)
    run_to_end(second, 2)
    assert_same_training(final_state(run), final_state(RunDir.of(second)))
