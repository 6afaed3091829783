"""Skipped images are marked in every table, and two runs that lack different images are not compared silently."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from tests.reporting.test_report import result, text_table, write_report
from trex.records.metrics import SKIPPED, MetricsLine
from trex.records.probe_result import SkippedImages
from trex.records.run_dir import RunDir


@pytest.fixture
def runs(tmp_path: Path) -> list[RunDir]:
    made = [RunDir(tmp_path / name) for name in ("one", "two")]
    for run in made:
        run.root.mkdir()
    return made


def test_skipped_images_are_marked_and_counted_in_every_table(runs: list[RunDir]) -> None:
    result(runs[0], "dtd", 0, 0.7, skipped=SkippedImages(2, 1, "a-b"))
    result(runs[0], "pets", 0, 0.8)
    write_report(runs[:1], runs[0].report)
    pages = [path.read_text() for path in runs[0].report.iterdir() if path.suffix in (".html", ".md", ".tex", ".txt")]
    assert len(pages) >= 3
    for shown in (*pages, text_table(runs[:1])):
        assert "70.0†" in shown
        assert "80.0†" not in shown
        assert "dtd: skipped 2 trainval and 1 test images" in shown
    table = runs[0].report / "results.csv"
    rows = {row["dataset"]: row for row in csv.DictReader(io.StringIO(table.read_text()))}
    assert (rows["dtd"]["skipped_trainval"], rows["dtd"]["skipped_test"]) == ("2", "1")
    assert (rows["pets"]["skipped_trainval"], rows["pets"]["skipped_test"]) == ("0", "0")


@pytest.mark.parametrize(
    ("other", "differ"),
    [(SkippedImages(2, 1, "a-b"), False), (SkippedImages(2, 1, "a-c"), True), (SkippedImages(), True)],
    ids=["the same images", "others", "none"],
)
def test_runs_that_lack_different_images_are_noted(runs: list[RunDir], other: SkippedImages, differ: bool) -> None:
    result(runs[0], "dtd", 0, 0.7, skipped=SkippedImages(2, 1, "a-b"))
    result(runs[1], "dtd", 0, 0.8, skipped=other)
    note = (
        "dtd: not exactly comparable with each other, because different images were skipped: "
        f"one (2 + 1 skipped), two ({other.trainval} + {other.test} skipped)"
    )
    assert (note in text_table(runs)) == differ


def test_images_that_the_training_replaced_are_noted(runs: list[RunDir]) -> None:
    result(runs[0], "dtd", 0, 0.7)
    MetricsLine("train", 10, 1.0, {SKIPPED: 1.0}, 1.0).append(runs[0].metrics)
    MetricsLine("train", 20, 2.0, {SKIPPED: 3.0}, 1.0).append(runs[0].metrics)
    MetricsLine("validation", 20, 2.0, {"top1": 3.0, SKIPPED: 1.0}, 1.0).append(runs[0].metrics)
    shown = text_table(runs[:1])
    assert "one: its training replaced 3 broken images." in shown
    assert "one: its validation skipped 1 broken image." in shown
