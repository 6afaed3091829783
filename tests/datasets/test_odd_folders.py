"""Image folders as file servers, archives and old systems leave them: what is no image is left out and counted."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cli import main
from tests import refusing
from tests.datasets.conftest import photo, put
from trex.config.schema import DataConfig
from trex.datasets.registry import load_splits

FOREIGN = ("@eaDir", "__MACOSX", "lost+found", "#recycle", "$RECYCLE.BIN", ".thumbnails")


def plain(root: Path) -> None:
    put(root, *(f"{split}/{name}/{n}.jpg" for split in ("train", "val") for name in ("cat", "dog") for n in range(3)))


def load(root: Path) -> tuple[list[str], tuple[str, ...], str]:
    split = load_splits("mine", DataConfig(folders={"mine": str(root)}))["trainval"]
    return [split.name(i) for i in range(len(split))], split.classes, split.left_out


@pytest.mark.parametrize("folder", FOREIGN)
def test_foreign_folder_is_neither_a_class_nor_part_of_one(tmp_path: Path, folder: str) -> None:
    plain(tmp_path)
    expected = load(tmp_path)
    put(tmp_path, f"train/{folder}/1.jpg", f"train/cat/{folder}/a.jpg", f"train/cat/{folder}/in/b.jpg")
    names, classes, left_out = load(tmp_path)
    assert (names, classes) == expected[:2]
    assert left_out == ("" if folder.startswith(".") else f"3 images in {folder}")


def test_everything_that_is_left_out_is_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    plain(tmp_path)
    expected = load(tmp_path)[0]
    for name in ("a.heic", "b.heic", "c.txt", "README", ".DS_Store"):
        (tmp_path / "train/cat" / name).write_bytes(photo())
    os.mkfifo(tmp_path / "train/dog/pipe.jpg")
    put(tmp_path, "train/cat/._0.jpg", "train/loose.jpg", "train/cat/in/ner/4.JPG")
    with caplog.at_level(logging.INFO):
        names, _, left_out = load(tmp_path)
    assert names == sorted([*expected, "train/cat/in/ner/4.JPG"])
    assert left_out == (
        "1 image in hidden files, 1 image in no class folder, 1 image in pipes or devices, "
        "4 files with other endings than images (.heic 2, .txt 1, none 1)"
    )
    assert f"mine trainval: left out: {left_out}" in caplog.text
    assert main(["data", "check", "mine", "--processes", "1", f"data.folders.mine={tmp_path}"]) == 0
    assert f"left out of trainval: {left_out}\n" in capsys.readouterr().out


def test_folder_of_another_user_is_left_out(tmp_path: Path) -> None:
    plain(tmp_path)
    (tmp_path / "train/lost+found").mkdir(mode=0)
    code = (
        "import sys; from trex.config.schema import DataConfig; from trex.datasets.registry import load_splits\n"
        "print(len(load_splits('mine', DataConfig(folders={'mine': sys.argv[1]}))['trainval']))"
    )
    done = subprocess.run(
        refusing.as_user(sys.executable, "-c", code, tmp_path), capture_output=True, text=True, check=True
    )
    assert done.stdout == "6\n"


@pytest.mark.long
@pytest.mark.slow
def test_classes_whose_names_are_not_utf8_are_trained_extracted_probed_and_reported(tmp_path: Path) -> None:
    plain(tmp_path / "data/mine")
    for split in ("train", "val"):
        (tmp_path / f"data/mine/{split}/cat").rename(tmp_path / f"data/mine/{split}/caf\udce9")
    (tmp_path / "data/mine/val/dog/1.jpg").rename(tmp_path / "data/mine/val/dog/\udce9.jpg")
    settings = (
        "name=odd", f"runs={tmp_path}/runs", f"data.root={tmp_path}/data", "data.dataset=mine", "data.workers=1",
        "model.encoder=resnet18", "method.memory_bank_size=4", "method.hidden_dim=8", "method.output_dim=8",
        "crops.global_size=32", "crops.local_count=1", "crops.local_size=16", "train.batch_size=3", "train.epochs=1",
        "train.precision=off", "optimizer.warmup_epochs=0", "extract.datasets=[mine]", "extract.resize=32",
        "extract.crop=32", "extract.batch_size=4", "probe.kinds=[knn1]",
    )  # fmt: skip
    (tmp_path / "recipe.yaml").write_text("{}")
    words = [sys.executable, "-m", "jobs.cli", "run", str(tmp_path / "recipe.yaml"), "--cluster", "local", *settings]
    done = subprocess.run(words, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    again = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "report", str(tmp_path / "runs/odd"), "--classes", "mine"],
        capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert again.returncode == 0, again.stdout + again.stderr
    assert "caf\\xe9" in again.stdout
    (tmp_path / "data/mine/val/dog/2\udce9.jpg").write_bytes(b"")
    checked = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "data", "check", "mine", "--processes", "1", f"data.root={tmp_path}/data"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert checked.returncode == 2, checked.stderr
    assert "2\\xe9.jpg: the file is empty" in checked.stdout
    for file in (tmp_path / "runs/odd").rglob("*"):
        if file.suffix in (".json", ".jsonl", ".html", ".csv", ".yaml"):
            file.read_text(encoding="utf-8")
