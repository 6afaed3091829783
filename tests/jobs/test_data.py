"""`trex data` reports exactly what is missing, wrong or unreadable."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.datasets.conftest import photo, put, write
from trex.datasets.registry import known

ROOT = Path(__file__).resolve().parents[2]


def data(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.cli", "data", *words]
    return subprocess.run(
        command, cwd=home, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=720
    )


def small_pets(root: Path) -> Path:
    base = root / "pets"
    write(base / "annotations/trainval.txt", "Abyssinian_1 1 1 1", "Bombay_2 2 1 2")
    write(base / "annotations/test.txt", "Bombay_3 2 1 2")
    put(base, "images/Abyssinian_1.jpg", "images/Bombay_2.jpg", "images/Bombay_3.jpg")
    return base


def test_list_shows_the_folder_and_the_images_of_each_known_and_own_dataset(tmp_path: Path) -> None:
    small_pets(tmp_path / "sets")
    (tmp_path / "elsewhere").mkdir()
    put(tmp_path / "sets/birds", "train/crow/1.jpg", "val/crow/2.jpg")
    put(tmp_path / "sets/my birds", "train/crow/1.jpg", "val/crow/2.jpg")
    put(tmp_path / "sets/notes", "scan.jpg")
    done = data(tmp_path, "list", "data.root=sets", "data.folders.dtd=elsewhere", "data.folders.cats=gone")
    assert done.returncode == 0, done.stderr
    lines = {line.split()[1]: line for line in done.stdout.splitlines()}
    assert set(lines) == {*known(), "birds", "my", "cats"}
    assert re.match(r"ok +digits +needs no files: 1442 \+ 355 images of 10 classes", lines["digits"])
    assert re.match(r"ok +birds +sets/birds: 1 \+ 1 images of 1 classes", lines["birds"])
    assert re.match(r"WRONG +my birds +sets/my birds: cannot be used as a dataset name in a config", lines["my"])
    assert re.match(r"missing +cats +gone: this folder does not exist", lines["cats"])
    assert "missing" in lines["in1k"]
    assert "1281167 + 50000 images of 1000 classes" in lines["in1k"]
    assert lines["cog_l1"].split()[2] == "sets/cog:"
    assert lines["pets"].startswith("WRONG")
    assert "expected 37, 3680 and 3669" in lines["pets"]
    assert "expected labels/train1.txt and images" in lines["dtd"]
    subset = data(tmp_path, "list", "data.root=sets", "data.subsets=[pets]").stdout
    assert re.search(r"subset +pets .*2 \+ 1 images of 2 classes; not comparable", subset)


@pytest.mark.slow
def test_check_reports_counts_damaged_files_and_images_in_both_splits(tmp_path: Path) -> None:
    base = small_pets(tmp_path)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(base / "images/Abyssinian_1.jpg")
    done = data(tmp_path, "check", "pets", f"data.root={tmp_path}")
    assert done.returncode == 2
    assert "counts: WRONG: found 2 classes, 2 trainval and 1 test images; expected 37, 3680 and 3669" in done.stdout
    assert "in both splits: images/Bombay_2.jpg (trainval), images/Bombay_3.jpg (test)" in done.stdout
    assert "unreadable images: 0" in done.stdout
    (base / "images/Bombay_3.jpg").write_bytes(photo()[:-300])
    done = data(tmp_path, "check", "pets", f"data.root={tmp_path}", "--processes", "1")
    assert re.search(r"^unreadable: .*images/Bombay_3.jpg: .*truncated", done.stdout, re.MULTILINE)
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_check_of_twenty_thousand_images_reports_exactly_the_ten_damaged_ones(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for split, count in (("trainval", 10_000), ("test", 10_000)):
        for i in range(count):
            path = folder / split / f"class{i % 10}" / f"{i:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(photo() + f"{split}{i}".encode())
    damage = [b"", photo()[:100], photo()[:-400], b"\xff\xd8\xff", b"<html>not found</html>"]
    damaged = []
    chance = np.random.default_rng(0)
    for i, number in enumerate(chance.choice(10_000, 10, replace=False)):
        path = folder / ("trainval", "test")[i % 2] / f"class{number % 10}" / f"{number:05d}.jpg"
        path.write_bytes(damage[i % 5])
        damaged.append(str(path))
    done = data(tmp_path, "check", "mine", f"data.root={tmp_path}")
    assert done.returncode == 2
    named = re.findall(r"^unreadable: (.*?\.jpg): ", done.stdout, re.MULTILINE)
    assert sorted(named) == sorted(damaged)
    assert "unreadable images: 10" in done.stdout
    assert "in both splits" not in done.stdout
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["in1k", "cars196", "sun397", "cog_l3"])
def test_get_of_a_dataset_that_requires_a_login_prints_what_to_do(tmp_path: Path, name: str) -> None:
    done = data(tmp_path, "get", name)
    assert done.returncode == 2
    assert f"{name} cannot be downloaded automatically. Its folder: {tmp_path}/data/" in done.stdout
    assert len(done.stdout) > 200
    assert list(tmp_path.iterdir()) == []


def test_get_of_an_unknown_dataset_suggests_the_nearest_name(tmp_path: Path) -> None:
    done = data(tmp_path, "get", "pet")
    assert done.returncode == 2
    assert "did you mean 'pets'" in done.stderr


def test_get_of_a_torchvision_class_without_splits_is_refused(tmp_path: Path) -> None:
    done = data(tmp_path, "get", "torchvision:FakeData")
    assert done.returncode == 2
    assert "torchvision:FakeData: torchvision's class has no train and test split" in done.stderr
    assert list(tmp_path.iterdir()) == []
