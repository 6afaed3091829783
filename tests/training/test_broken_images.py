"""A training with broken images ends with their names, or goes on without them and counts them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from trex.distributed import Ranks
from trex.errors import UserError
from trex.interruption import StopRequest
from trex.records.metrics import SKIPPED, MetricsLine
from trex.training.trainer import train


@pytest.fixture
def broken(tmp_path: Path, few_digits: Path) -> Path:
    """The small training set with two broken training images and one broken validation image."""
    folder = tmp_path / "digits"
    shutil.copytree(few_digits, folder)
    for split, count in (("train", 2), ("val", 1)):
        for path in sorted((folder / split).rglob("*.png"))[:count]:
            path.write_bytes(path.read_bytes()[:40])
    return folder


def test_broken_image_ends_the_training_with_its_name(tiny, saved_run, broken: Path) -> None:
    config = tiny("refuse", f"data.folders.few_digits={broken}")
    with pytest.raises(UserError, match=r"digits/train/.*: not a readable image .*data\.broken_images=skip"):
        train(saved_run(config), config, Ranks(), StopRequest())


def test_training_that_skips_broken_images_counts_them_and_those_of_the_validation(
    tiny, saved_run, broken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny("skip", f"data.folders.few_digits={broken}", "data.broken_images=skip", "train.validation_knn=5")
    run = saved_run(config)
    train(run, config, Ranks(), StopRequest())
    lines = MetricsLine.read_lines(run.metrics).strict()
    assert [line.values[SKIPPED] for line in lines if line.phase == "train" and SKIPPED in line.values] == [2, 2]
    assert [line.values[SKIPPED] for line in lines if line.phase == "validation"] == [1, 1]
    assert all(0 <= line.values["knn"] <= 100 for line in lines if line.phase == "validation")
    warnings = [record.getMessage() for record in caplog.records if "the next takes its place" in record.getMessage()]
    assert len(warnings) == 2, "each image is named once, not in every epoch"


def test_training_without_broken_images_writes_no_count(tiny, saved_run) -> None:
    config = tiny("whole", "data.broken_images=skip", "train.epochs=1")
    run = saved_run(config)
    train(run, config, Ranks(), StopRequest())
    assert not any(SKIPPED in line.values for line in MetricsLine.read_lines(run.metrics).strict())
