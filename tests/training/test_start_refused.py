"""Files from which a training cannot start: the error says why, and what can be done."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.released import shrunk
from tests.training.conftest import read_start_of, start_settings
from trex.errors import ResumeRefused, UserError


def test_run_with_another_start_is_refused(tiny, saved_run, full, tmp_path: Path) -> None:
    saved_run(tiny("a", *start_settings(full[0], "encoder")))
    with pytest.raises(ResumeRefused, match=r"train\.start_with: was encoder, is now all"):
        saved_run(tiny("a", *start_settings(full[0], "all")))
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
        (_labels, "its memory bank holds labels from 0 to 7, but few_digits has 7 classes"),
        (_missing, "missing, 1:\n    - momentum_encoder.conv1.weight"),
        (_unknown, r"unexpected, 1:\n    \+ module.model.head.last.weight"),
        (_momentum, r"momentum of encoder.conv1.weight is \(64, 3, 3, 3\), expected \(64, 3, 7, 7\)"),
        (_no_momentum, "momentum of encoder.layer2.0.conv1.weight is none"),
        (_group, r"its optimizer has 23 \+ 42 parameters, the model has 22 \+ 43"),
        (_adam, "its optimizer is not a state of torch's SGD"),
        (_finished, "2 epochs are finished and train.epochs is 2"),
        (_no_epoch, "it has no epoch"),
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
        read_start_of(tiny("a", *start_settings(tmp_path / "damaged.pth", "all")))


def test_same_checkpoint_without_damage_is_accepted(tiny, full, tmp_path: Path) -> None:
    torch.save(shrunk(full[2]), tmp_path / "good.pth")
    assert len(read_start_of(tiny("a", *start_settings(tmp_path / "good.pth", "all"))).momentum) == 65


@pytest.mark.parametrize(
    ("how", "setting", "expected"),
    [
        ("all", "method.hidden_layers=3", "is not a training state of this config's model:\n  missing"),
        ("all", "method.hidden_layers=3", r"\nThe file was made with method\.hidden_layers=1\. To load only"),
        ("all", "method.normalize_input=false", r"The file was made with method\.normalize_input=true\. To"),
        ("weights", "method.hidden_dim=64", r"The file was made with method\.hidden_dim=32\. To"),
        ("weights", "method.hidden_layers=3", "its projector does not match the config"),
        ("encoder", "model.encoder=resnet34", "does not hold the weights of a resnet34"),
        (
            "all",
            "data.dataset=digits_unseen",
            "its memory bank holds labels from 0 to 6, but digits_unseen has 3 classes",
        ),
    ],
)
def test_checkpoint_of_another_recipe_is_refused(tiny, full, tmp_path, how: str, setting: str, expected: str) -> None:
    torch.save(shrunk(full[2]), tmp_path / "other.pth")
    with pytest.raises(UserError, match=expected):
        read_start_of(tiny("a", *start_settings(tmp_path / "other.pth", how, setting)))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("weights", "the method supervised has no part besides the encoder that does not depend on the classes"),
        ("all", "the layout of the released full checkpoints has no place for the method supervised"),
    ],
)
def test_supervised_loads_only_the_encoder_of_a_released_checkpoint(tiny, full, how: str, expected) -> None:
    with pytest.raises(UserError, match=expected):
        read_start_of(tiny("a", *start_settings(full[0], how), method="supervised"))


@pytest.mark.parametrize("how", ["weights", "all"])
def test_encoder_file_is_refused_for_all_but_the_encoder(tiny, full, tmp_path: Path, how: str) -> None:
    torch.save(shrunk(dict(full[1].module.model.encoder.state_dict())), tmp_path / "trex.pth")
    with pytest.raises(UserError, match=r"trex\.pth is not a full checkpoint.*train\.start_with=encoder"):
        read_start_of(tiny("a", *start_settings(tmp_path / "trex.pth", how)))
