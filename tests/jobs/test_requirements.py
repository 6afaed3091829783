"""What a new run would be refused for at its start is found before its folder exists, here and by `trex check`."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.cli import main
from jobs.plan.runs import open_config, save_config
from tests.disks import small_disk
from trex.files import write_text
from trex.loading import shared_memory

RECIPE = """
name: mine
data: {dataset: digits_seen, workers: 1}
model: {encoder: resnet18}
extract: {datasets: [digits_unseen], resize: 32, crop: 32}
train: {epochs: 20, batch_size: 100}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    write_text(tmp_path / "recipe.yaml", RECIPE)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return why a command is refused with code 2, and check that it creates nothing."""
    before = sorted(Path.cwd().iterdir())
    assert main([words[0], "recipe.yaml", "--cluster", "local", *words[1:]]) == 2
    assert sorted(Path.cwd().iterdir()) == before
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["data.dataset=digit_seen"], "unknown dataset 'digit_seen'"),
        (["data.dataset=digit_seen"], "did you mean 'digits_seen'?"),
        (["data.dataset=pets"], "data/pets, but this folder does not exist"),
        (["train.batch_size=2048"], "train.batch_size is 2048, but digits_seen has only 1014 training images"),
        (["--processes", "3"], "train.batch_size is 100: it must be a multiple of the number of processes, 3"),
        (["checkpoint.fallback_folder=/nowhere"], "checkpoint.fallback_folder is /nowhere: expected a folder"),
        (["optimizer.warmup_epochs=30"], "warms up for 30.0 epochs: expected at most train.epochs, 20"),
    ],
)
@pytest.mark.parametrize("command", ["train", "run"])
def test_training_that_would_be_refused_leaves_no_folder(
    home: Path, capsys: pytest.CaptureFixture[str], command: str, settings: list[str], reason: str
) -> None:
    assert reason in refused(capsys, command, *settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ("model.encoder=vit_b_16", "it can be evaluated, not trained"),
        ("train.start=recipe.yaml", "recipe.yaml"),
    ],
)
def test_encoder_and_start_file_that_would_be_refused_leave_no_folder(
    home: Path, capsys: pytest.CaptureFixture[str], settings: str, reason: str
) -> None:
    assert reason in refused(capsys, "train", settings)


def test_training_without_place_in_the_shared_memory_leaves_no_folder(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(home / "shm", "size=1m") as disk:
        monkeypatch.setattr(shared_memory, "SHARED_MEMORY", disk.folder)
        assert "has 1.0 MB free, and the batches need up to" in refused(capsys, "train")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["extract", "extract.weights=untrained", "extract.datasets=[digits, dtx]"], "unknown dataset 'dtx'"),
        (["run", "extract.datasets=[digits, pets]"], "data/pets, but this folder does not exist"),
        (["extract"], "there is no checkpoint to extract features with. Train first: trex train mine"),
        (["probe"], "features/digits_unseen/trainval.h5: this feature file does not exist. Extract the features first"),
    ],
)
def test_extraction_and_probes_that_would_be_refused_leave_no_folder(
    home: Path, capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    assert reason in refused(capsys, *words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ("model.encoder=timm/vit_tiny_patch16_224", "takes images of 224 x 224 pixels only"),
        ("extract.weights=recipe.yaml", "recipe.yaml"),
    ],
)
def test_weights_that_would_be_refused_leave_no_folder(
    home: Path, capsys: pytest.CaptureFixture[str], settings: str, reason: str
) -> None:
    assert reason in refused(capsys, "extract", "extract.weights=untrained", settings)


@pytest.mark.slow
def test_run_that_has_begun_is_not_checked_again(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["recipe.yaml", "extract.weights=pixels", "extract.datasets=[pets]"]
    save_config(*open_config(words[0], words[1:]))
    assert main(["extract", *words, "--cluster", "local"]) == 2
    assert "this folder does not exist" in capsys.readouterr().out, "its job says it"
