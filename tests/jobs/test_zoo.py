"""Reading and exporting weights files through the commands."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from tests.export.test_export import trained
from tests.jobs.test_cli import ROOT, home, trex  # noqa: F401
from tests.released import released
from trex.features.store import open_features


@pytest.mark.slow
def test_export_prints_its_files_and_that_the_run_has_not_finished(home: Path) -> None:  # noqa: F811
    (home / "runs").mkdir()
    run = trained(home, finished=False)
    shutil.copy(home / "tiny.yaml", run.config)
    done = trex(home, "export", "little", "--to", "encoder.pth")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "encoder.pth: encoder of little, epoch-0003-step-00000002; its training has not finished\n"
        "encoder.md: model card\n"
    )
    again = trex(home, "export", "little", "--to", "encoder.pth")
    assert (again.returncode, "encoder.pth exists" in again.stderr) == (2, True)


@pytest.mark.slow
def test_check_refuses_weights_of_another_encoder_and_training_a_vit(home: Path) -> None:  # noqa: F811
    _, _, checkpoint = released()
    torch.save(checkpoint, home / "x_checkpoint_full.pth")
    files = (
        "data.dataset=digits_seen",
        "extract.weights=x_checkpoint_full.pth",
        "train.start=x_checkpoint_full.pth",
        "train.start_with=all",
    )
    fits = trex(
        home, "check", "tiny.yaml", "--cluster", "local", *files, "method.memory_bank_size=96", "train.epochs=2"
    )
    assert fits.returncode == 0, fits.stdout + fits.stderr
    choice = "('module.model.encoder.' is used, 'module.model_ema.encoder.' not)"
    assert f"ok    weights: {home}/x_checkpoint_full.pth contains all keys of a resnet18 {choice}\n" in fits.stdout
    assert f"ok    start: {home}/x_checkpoint_full.pth, all: all keys match; training starts at epoch 2" in fits.stdout
    (home / "map.yaml").write_text("'module.model_ema.encoder.': ''\n'': null\n")
    mapped = trex(home, "check", "tiny.yaml", "--cluster", "local", *files[:2], "extract.key_map=map.yaml")
    assert mapped.returncode == 0, mapped.stdout + mapped.stderr
    assert re.search(
        r"contains all keys of a resnet18; names mapped by map\.yaml, SHA-256 [0-9a-f]{16}\n", mapped.stdout
    )
    wrong = trex(home, "check", "tiny.yaml", "--cluster", "local", *files, "model.encoder=resnet50")
    assert wrong.returncode == 2
    assert wrong.stdout.count("FAIL") == 2
    assert "The file holds a resnet18: set model.encoder=resnet18" in wrong.stdout
    vit = trex(home, "check", "tiny.yaml", "--cluster", "local", "model.encoder=vit_b_32", "extract.crop=224",
               "extract.resize=224")  # fmt: skip
    assert vit.returncode == 2
    assert "FAIL  model.encoder is 'vit_b_32': it can be evaluated, not trained" in vit.stdout


def test_make_transfer_uses_a_run_name_that_no_training_has() -> None:
    words = ["make", "--dry-run", "transfer", "CHECKPOINT=../zoo/trex.pth", "VENV=.", "READY="]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "trex run trex_star   'extract.weights=../zoo/trex.pth' 'name=transfer_trex'" in done.stdout


@pytest.mark.slow
def test_released_checkpoint_is_evaluated_from_a_relative_path_without_training(home: Path) -> None:  # noqa: F811
    _, _, checkpoint = released()
    (home / "zoo").mkdir()
    torch.save(checkpoint, home / "zoo" / "x_checkpoint_full.pth")
    words = ["extract.weights=zoo/x_checkpoint_full.pth", "name=transfer_x", "--cluster", "local"]
    done = trex(home, "run", "tiny.yaml", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    run = home / "runs" / "transfer_x"
    assert not (run / "checkpoints").exists()
    assert (run / "report" / "index.html").exists()
    features = run / "features" / "digits_unseen" / "test.h5"
    made_by = open_features(features).provenance
    assert re.fullmatch(r"x_checkpoint_full\.pth, SHA-256 [0-9a-f]{16}", made_by.weights)
    assert list(run.glob("probes/digits_unseen/*/seed_0.json"))
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    shutil.rmtree(run / "features")
    again = trex(elsewhere, "extract", str(run), "--cluster", "local")
    assert again.returncode == 0, again.stdout + again.stderr
    assert open_features(features).provenance.encoder_digest == made_by.encoder_digest


@pytest.mark.slow
def test_exported_weights_give_the_same_features_as_the_run(home: Path) -> None:  # noqa: F811
    first = trex(home, "run", "tiny.yaml", "name=first", "--cluster", "local")
    assert first.returncode == 0, first.stdout + first.stderr
    file = "first_checkpoint_full.pth"
    done = trex(home, "export", "first", "--to", file)
    assert done.returncode == 0, done.stderr
    assert "not finished" not in done.stdout
    again = trex(home, "extract", "tiny.yaml", "name=again", f"extract.weights={file}", "--cluster", "local")
    assert again.returncode == 0, again.stdout + again.stderr
    ours, theirs = (
        open_features(home / "runs" / run / "features" / "digits_unseen" / "test.h5") for run in ("first", "again")
    )
    assert np.array_equal(ours.features, theirs.features)
    assert ours.provenance.encoder_digest == theirs.provenance.encoder_digest
    card = (home / "first_checkpoint_full.md").read_text()
    assert r"digits\_unseen" in card
    assert "Validation on digits_unseen" in card


@pytest.mark.slow
def test_vit_of_torchvision_can_be_evaluated(home: Path) -> None:  # noqa: F811
    chance = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for label, shade in (("dark", 60), ("light", 200)):
            folder = home / "data" / "shades" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = (chance.integers(-50, 50, (40, 40, 3)) + shade).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    torch.manual_seed(0)
    torch.save({"model": torchvision.models.vit_b_32().state_dict()}, home / "vit.pth")
    words = ["model.encoder=vit_b_32", "extract.weights=vit.pth", "extract.datasets=[shades]", "extract.crop=224",
             "extract.resize=224", "name=vit"]  # fmt: skip
    done = trex(home, "run", "tiny.yaml", "--cluster", "local", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = (home / "runs/vit/probes/shades").glob("*/seed_0.json")
    assert json.loads(result.read_text())["test"]["top1"] == 1.0
