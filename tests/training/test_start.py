"""A training that begins from a file: what it takes of it, and what it refuses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.released import EPOCH, released, shrunk
from tests.stopping import StopAfter
from tests.training.conftest import METHODS, assert_same_bits, flat
from tests.training.test_resume import final, finish, run_to_end
from trex.config import Config
from trex.datasets.registry import load_split
from trex.distributed import Ranks
from trex.errors import Interrupted, ResumeRefused, UserError
from trex.export.write import export
from trex.files import sha256
from trex.interruption import StopRequest
from trex.records.events import TrainingStarted, read_events
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir
from trex.training.network import build_network, network_on_meta
from trex.training.start import Start, read_start
from trex.training.state import TrainingState
from trex.training.trainer import Trainer, train

#: Our name of a part and the released one, here once more and by hand.
SAME = {
    "encoder": "module.model.encoder",
    "projector": "module.model.head.layers",
    "momentum_encoder": "module.model_ema.encoder",
    "momentum_projector": "module.model_ema.head.layers",
}


def begun(run: RunDir, config: Config) -> TrainingState:
    """The state with which the first step would be made."""
    trainer = Trainer(run, config, Ranks(), StopRequest())
    try:
        trainer.resume(None)
        return trainer.state
    finally:
        trainer.close()


def fits(config: Config) -> Start:
    """What the file gives to a network of this config, which takes no memory for that."""
    images = load_split(config.data.dataset, "trainval", config.data)
    return read_start(config, network_on_meta(config, len(images.classes)), images.classes, 8)


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> tuple[Path, Any, dict[str, Any]]:
    """A released full checkpoint with every part that one may have."""
    path = tmp_path_factory.mktemp("zoo") / "x_checkpoint_full.pth"
    model, _, checkpoint = released()
    torch.save(checkpoint, path)
    return path, model, checkpoint


def start_of(path: Path, how: str, *more: str) -> list[str]:
    return [f"train.start={path}", f"train.start_with={how}", *more]


@pytest.mark.parametrize("method", METHODS)
def test_encoder_begins_from_the_file_and_everything_else_from_initial_weights(
    tiny, saved_run, full, method: str
) -> None:
    path, released_model, _ = full
    config = tiny("a", *start_of(path, "encoder"), method=method)
    state = begun(saved_run(config), config)
    initial = build_network(config, 7, Ranks(), config.train.seed).state_dict()
    theirs = released_model.module.model.encoder.state_dict()
    for key, value in state.model.state_dict().items():
        part, _, rest = key.partition(".")
        expected = theirs[rest] if part in ("encoder", "momentum_encoder") else initial[key]
        assert torch.equal(value, expected), key
    assert not any(value["momentum_buffer"].any() for value in state.optimizer.state.values())
    assert state.position.global_step == 0


def test_weights_are_encoder_and_projector_with_a_fresh_optimizer(tiny, saved_run, full) -> None:
    path, _, checkpoint = full
    config = tiny("a", *start_of(path, "weights", "train.epochs=1"))
    state = begun(saved_run(config), config)
    saved = state.model.state_dict()
    for ours, theirs in {**SAME, "momentum_encoder": SAME["encoder"], "momentum_projector": SAME["projector"]}.items():
        keys = [key for key in saved if key.startswith(f"{ours}.")]
        assert keys
        for key in keys:
            assert torch.equal(saved[key], checkpoint["model"][theirs + key.removeprefix(ours)]), key
    assert not torch.equal(saved["classifier.features"], checkpoint["model"]["module.memory.features"])
    assert not any(value["momentum_buffer"].any() for value in state.optimizer.state.values())
    assert state.position.epoch == 0


@pytest.mark.parametrize("clf", [True, False])
def test_everything_of_a_released_checkpoint_is_taken(tiny, saved_run, tmp_path: Path, clf: bool) -> None:
    model, optimizer, checkpoint = released(clf=clf)
    torch.save(checkpoint, tmp_path / "full.pth")
    config = tiny("a", *start_of(tmp_path / "full.pth", "all", "train.precision=fp16"))
    state = begun(saved_run(config), config)
    theirs = checkpoint["model"]
    for key, value in state.model.state_dict().items():
        if key.startswith("classifier."):
            name = {"features": "features", "labels": "labels", "pointer": "ptr"}[key.removeprefix("classifier.")]
            assert torch.equal(value, theirs[f"module.memory.{name}"].reshape(value.shape))
        else:
            part, _, rest = key.partition(".")
            assert torch.equal(value, theirs[f"{SAME[part]}.{rest}"]), key
    by_name = dict(model.named_parameters())
    for name, parameter in state.model.named_parameters():
        if parameter.requires_grad:
            part, _, rest = name.partition(".")
            expected = optimizer.state[by_name[f"{SAME[part]}.{rest}"]]["momentum_buffer"]
            assert expected.any()
            assert torch.equal(state.optimizer.state[parameter]["momentum_buffer"], expected), name
    assert state.scaler.get_scale() == 512.0
    assert (state.position.epoch, state.position.step) == (EPOCH, 0)
    assert state.position.global_step > 0


def test_plain_recipe_takes_its_learned_class_weights(tiny, saved_run, tmp_path: Path) -> None:
    _, _, checkpoint = released(memory=False)
    checkpoint["fp16_scaler"] = None
    torch.save(checkpoint, tmp_path / "full.pth")
    config = tiny("a", *start_of(tmp_path / "full.pth", "all"), method="trex_plain")
    state = begun(saved_run(config), config)
    assert torch.equal(state.model.classifier.weight, checkpoint["model"]["module.clf.fc.weight"])
    assert state.model.classifier.weight in state.optimizer.state


def test_projector_computes_what_the_released_one_does(tiny, saved_run, tmp_path: Path) -> None:
    model, _, checkpoint = released(hidden_layers=3)
    torch.save(checkpoint, tmp_path / "full.pth")
    config = tiny("a", *start_of(tmp_path / "full.pth", "weights", "method.hidden_layers=3"))
    ours, theirs = begun(saved_run(config), config).model.eval(), model.module.model.eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ours.projector(ours.encoder(images)), theirs(images), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_released_checkpoint_trains_on_to_the_end_and_records_where_it_began(tiny, saved_run, full) -> None:
    path = full[0]
    config = tiny("on", *start_of(path, "all"))
    run = saved_run(config)
    finish(run, config)
    saved = final(run)
    steps = {line.step for line in MetricsLine.read_lines(run.metrics).strict() if line.phase == "train"}
    assert min(steps) > saved["position"]["global_step"] // 2  # the second of two epochs only
    record = {"file": str(path), "sha256": sha256(path), "with": "all"}
    assert saved["start"] == record
    assert next(e for e in read_events(run.events).strict() if isinstance(e, TrainingStarted)).start == record


# ---- our own: a run that is exported and continued is the run that was not


def stopped(config: Config, run: RunDir, looks: int) -> None:
    with pytest.raises(Interrupted):
        train(run, config, Ranks(), StopAfter(looks))


def assert_same_training(one: dict, other: dict) -> None:
    parts = ("model", "optimizer", "scaler", "position")
    assert_same_bits({part: one[part] for part in parts}, {part: other[part] for part in parts})
    assert len(flat(one["model"])) > 100


@pytest.mark.slow
@pytest.mark.parametrize("method", ["trex_class_means", "trex_plain"])
def test_run_continued_from_its_export_ends_with_the_same_bits(tiny, saved_run, tmp_path: Path, method: str) -> None:
    torch.set_num_threads(1)
    reference, first = tiny("reference", method=method), tiny("first", method=method)
    finish(saved_run(reference), reference)
    run = saved_run(first)
    stopped(first, run, 5)  # within the first epoch
    export(run, tmp_path / "ours_checkpoint_full.pth", "full", license=None)
    second = tiny("second", *start_of(tmp_path / "ours_checkpoint_full.pth", "all"), method=method)
    run = saved_run(second)
    stopped(second, run, 3)
    (tmp_path / "ours_checkpoint_full.pth").unlink()  # not read again
    finish(run, second)
    assert_same_training(final(RunDir.of(reference)), final(run))
    assert final(run)["start"]["with"] == "all"


@pytest.mark.slow
def test_supervised_run_continued_from_its_checkpoint_ends_with_the_same_bits(tiny, saved_run) -> None:
    torch.set_num_threads(1)
    settings = ("crops.local_count=0",)
    reference = tiny("reference", *settings, "checkpoint.keep=9", method="supervised")
    run = saved_run(reference)
    finish(run, reference)
    half = min(run.checkpoints.glob("epoch-0001-*")) / "checkpoint.pt"
    second = tiny("second", *settings, *start_of(half, "all"), method="supervised")
    finish(saved_run(second), second)
    assert_same_training(final(run), final(RunDir.of(second)))


@pytest.mark.slow
def test_two_ranks_continued_from_a_file_end_with_the_same_bits(tiny, saved_run) -> None:
    reference = tiny("reference", "checkpoint.keep=9")
    run = saved_run(reference)
    run_to_end(reference, 2)
    half = min(run.checkpoints.glob("epoch-0001-*")) / "checkpoint.pt"
    second = tiny("second", *start_of(half, "all"))
    saved_run(second)
    run_to_end(second, 2)
    assert_same_training(final(run), final(RunDir.of(second)))


# ---- what does not fit


def test_start_is_part_of_what_makes_a_run(tiny, saved_run, full, tmp_path: Path) -> None:
    saved_run(tiny("a", *start_of(full[0], "encoder")))
    with pytest.raises(ResumeRefused, match=r"train\.start_with: was encoder, is now all"):
        saved_run(tiny("a", *start_of(full[0], "all")))
    with pytest.raises(ResumeRefused, match=r"train\.start: was .*x_checkpoint_full\.pth, is now None"):
        saved_run(tiny("a"))


def _labels(checkpoint: dict[str, Any]) -> None:
    checkpoint["model"]["module.memory.labels"][3] = 7


def _missing(checkpoint: dict[str, Any]) -> None:
    del checkpoint["model"]["module.model_ema.encoder.conv1.weight"]


def _unknown(checkpoint: dict[str, Any]) -> None:
    checkpoint["model"]["module.model.head.last.weight"] = torch.zeros(3)


def _momentum(checkpoint: dict[str, Any]) -> None:
    checkpoint["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(64, 3, 3, 3)


def _no_momentum(checkpoint: dict[str, Any]) -> None:
    del checkpoint["optimizer"]["state"][5]


def _group(checkpoint: dict[str, Any]) -> None:
    checkpoint["optimizer"]["param_groups"][1]["params"].pop()


def _adam(checkpoint: dict[str, Any]) -> None:
    checkpoint["optimizer"] = [1, 2]


def _finished(checkpoint: dict[str, Any]) -> None:
    checkpoint["epoch"] = 2


def _no_epoch(checkpoint: dict[str, Any]) -> None:
    del checkpoint["epoch"]


def _bad_epoch(checkpoint: dict[str, Any]) -> None:
    checkpoint["epoch"] = "last"


def _bad_step(checkpoint: dict[str, Any]) -> None:
    checkpoint["trex"] = {"step": -1, "global_step": 0}


def _scaler(checkpoint: dict[str, Any]) -> None:
    checkpoint["fp16_scaler"] = {"scale": 2.0}


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_labels, "its memory bank holds labels from 0 to 7, and digits_seen has 7 classes"),
        (_missing, "missing, 1:\n    - momentum_encoder.conv1.weight"),
        (_unknown, r"unexpected, 1:\n    \+ module.model.head.last.weight"),
        (_momentum, r"momentum of encoder.conv1.weight is \(64, 3, 3, 3\), expected \(64, 3, 7, 7\)"),
        (_no_momentum, "momentum of encoder.layer2.0.conv1.weight is none"),
        (_group, r"its optimizer has 23 \+ 42 parameters, the model"),
        (_adam, "its optimizer is not a state of torch's SGD"),
        (_finished, "2 epochs are finished and train.epochs is 2"),
        (_no_epoch, "does not say its epoch"),
        (_bad_epoch, "its epoch is 'last'"),
        (_bad_step, "its step is -1"),
        (_scaler, "its scaler is not a state of torch's GradScaler"),
    ],
)
def test_checkpoint_that_cannot_be_continued_says_why(tiny, full, tmp_path, damage, expected: str) -> None:
    checkpoint = copy.deepcopy(shrunk(full[2]))
    damage(checkpoint)
    torch.save(checkpoint, tmp_path / "damaged.pth")
    with pytest.raises(UserError, match=f"(?s)damaged.pth.*{expected}"):
        fits(tiny("a", *start_of(tmp_path / "damaged.pth", "all")))


def test_the_same_checkpoint_undamaged_fits(tiny, full, tmp_path: Path) -> None:
    torch.save(shrunk(full[2]), tmp_path / "good.pth")
    assert len(fits(tiny("a", *start_of(tmp_path / "good.pth", "all"))).momentum) == 65


@pytest.mark.parametrize(
    ("how", "setting", "expected"),
    [
        ("all", "method.hidden_layers=3", "is not a training state of this config's model:\n  missing"),
        ("weights", "method.hidden_layers=3", "its projector is not that of the config"),
        ("encoder", "model.encoder=resnet34", "does not hold the weights of a resnet34"),
        (
            "all",
            "data.dataset=digits_unseen",
            "its memory bank holds labels from 0 to 6, and digits_unseen has 3 classes",
        ),
    ],
)
def test_checkpoint_of_another_recipe_is_refused(tiny, full, tmp_path, how: str, setting: str, expected: str) -> None:
    torch.save(shrunk(full[2]), tmp_path / "other.pth")
    with pytest.raises(UserError, match=expected):
        fits(tiny("a", *start_of(tmp_path / "other.pth", how, setting)))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("weights", "the method supervised has nothing beside the encoder that does not depend on the classes"),
        ("all", "the layout of the released full checkpoints has no place for the method supervised"),
    ],
)
def test_supervised_takes_no_more_than_the_encoder_of_a_released_checkpoint(tiny, full, how: str, expected) -> None:
    with pytest.raises(UserError, match=expected):
        fits(tiny("a", *start_of(full[0], how), method="supervised"))


@pytest.mark.parametrize("how", ["weights", "all"])
def test_encoder_file_starts_an_encoder_only(tiny, full, tmp_path: Path, how: str) -> None:
    torch.save(shrunk(dict(full[1].module.model.encoder.state_dict())), tmp_path / "trex.pth")
    with pytest.raises(UserError, match=r"trex\.pth is not a full checkpoint.*train\.start_with=encoder"):
        fits(tiny("a", *start_of(tmp_path / "trex.pth", how)))
