"""Multi-label datasets in the report: mAP in place of the top-1 accuracy, marked, with intervals and paired tests."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.reporting.test_comparisons import hits, write_tested
from tests.reporting.test_report import result
from trex.probing.average_precision import mean_average_precision, ranks, replicates
from trex.probing.rankings import Rankings, ranking_scores, write_rankings
from trex.records.probe_result import ImageCounts, ProbeResult, Scores, predictions_file
from trex.records.run_dir import RunDir
from trex.reporting import tables
from trex.reporting.cell import Cell, images_of_classes, interval
from trex.reporting.classes import classes_text, confusion_csv
from trex.reporting.collect import average, collect
from trex.reporting.compare import MEAN, Comparison, comparisons
from trex.reporting.metric import METRICS
from trex.reporting.page import page
from trex.reporting.spreadsheets import cells_csv, differences_csv, milestones_csv, results_csv
from trex.reporting.statistics import bootstrap_comparison

CLASSES = 5
SINGLE = Scores(0.5, None, 0.5, 0.5, 0.1, 0, (0.5, 0.5), ((0, 0, 1),))
SHARES = np.linspace(0.05, 0.4, CLASSES)


def ranking(images: int, gap: float, chance: np.random.Generator, labels: np.ndarray | None = None) -> Rankings:
    """Rankings of random images; a larger gap between the scores gives a higher average precision."""
    if labels is None:
        labels = np.where(chance.random((images, CLASSES)) < SHARES, 1, -1).astype(np.int8)
    return Rankings(labels, ranks(chance.normal(size=labels.shape) + gap * (labels > 0)))


def write_ranked(run: RunDir, seed: int, found: Rankings, **more: object) -> None:
    """Write a result on voc2007 with its rankings."""
    path = run.probe("voc2007", "exact", seed)
    digest = write_rankings(predictions_file(path), found)
    result(
        run, "voc2007", seed, 0.0, classes=tuple("abcde"), predictions=digest,
        counts=ImageCounts(8, 2, len(found.label)), test=ranking_scores(found), **more,
    )  # fmt: skip


@pytest.fixture
def pair(tmp_path: Path) -> tuple[RunDir, RunDir]:
    """Two runs with two seeds each on voc2007, the first one's better, and equal results on dtd."""
    found, chance = (RunDir(tmp_path / "one"), RunDir(tmp_path / "two")), np.random.default_rng(0)
    labels = ranking(400, 0, chance).label
    for run, gap in zip(found, (2.5, 1.5), strict=True):
        for seed in range(2):
            write_ranked(run, seed, ranking(400, gap, chance, labels))
        write_tested(run, "dtd", 0, hits(200, range(20)))
    return found


def voc(run: RunDir) -> Cell:
    return collect(run).cells["exact", "voc2007"]


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_map_stands_where_other_datasets_have_the_top_1_accuracy(pair: tuple[RunDir, RunDir]) -> None:
    data = [collect(run) for run in pair]
    found = voc(pair[0]).estimates["map11"]
    assert found.value == pytest.approx(np.mean([one.test.map11 for one in voc(pair[0]).results]))
    assert found.interval is not None
    head, body = tables.rows(data, "exact")
    assert head[1:] == ["dtd", "voc2007 (mAP)", "mean", "log-odds"]
    assert body[0][2] == f"{100 * found.value:.1f} ± {100 * found.interval.half:.1f}"
    for text in (tables.text_table(data), tables.markdown(data), tables.latex(data), page(data)):
        plain = re.sub(r"[\s\\%]+", " ", text)
        assert "Top-1 accuracy or mean average precision over 11 points (mAP) on the test images in" in plain
        assert "voc2007: an image may have several classes. The score is the mean average precision over 11" in plain


def test_mean_and_log_odds_count_it_like_an_accuracy(pair: tuple[RunDir, RunDir]) -> None:
    result(pair[0], "birds", 0, 0.7)
    data = collect(pair[0])
    value = voc(pair[0]).mean
    found = average(data, "exact", ["birds", "voc2007"])
    assert found.mean == pytest.approx((0.7 + value) / 2)
    assert found.log_odds == pytest.approx((math.log(0.7 / 0.3) + math.log(value / (1 - value))) / 2)
    assert average(data, "exact", ["birds", "dtd", "voc2007"]).of == 15, "not part of the published average"
    area = average(data, "exact", ["birds", "dtd", "voc2007"], METRICS["map_area"])
    assert (area.mean, area.of) == (voc(pair[0]).estimates["map_area"].value, 1)


def test_table_of_the_area_has_only_multi_label_datasets(pair: tuple[RunDir, RunDir]) -> None:
    _, body = tables.rows([collect(pair[0])], "exact", METRICS["map_area"])
    assert body[0][1] == tables.MISSING
    assert body[0][2].startswith(f"{100 * voc(pair[0]).estimates['map_area'].value:.1f} ± ")


def test_page_without_multi_label_datasets_says_so(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    result(run, "dtd", 0, 0.5)
    text = page([collect(run)], METRICS["map_area"])
    assert "No results of the exact probe on a dataset whose images have several classes." in text
    assert "mAP" not in page([collect(run)])


def test_csv_files_have_both_precisions_with_intervals_and_no_accuracy(pair: tuple[RunDir, RunDir]) -> None:
    data = [collect(run) for run in pair]
    [one] = [
        row for row in rows(results_csv(data)) if (row["run"], row["dataset"], row["seed"]) == ("one", "voc2007", "1")
    ]
    test = voc(pair[0]).results[1].test
    assert (one["top1"], one["top1_low"], one["nll"]) == ("", "", "")
    assert (float(one["map11"]), float(one["map_area"])) == (test.map11, test.map_area)
    assert float(one["map11_low"]) < float(one["map11"]) < float(one["map11_high"])
    found = [row for row in rows(cells_csv(data)) if (row["run"], row["dataset"]) == ("one", "voc2007")]
    assert [row["metric"] for row in found] == ["map11", "map_area"]
    assert all(row["low"] and row["sd_over_seeds"] for row in found)
    differences = [row for row in rows(differences_csv(data)) if row["dataset"] == "voc2007"]
    assert [row["metric"] for row in differences] == ["map11", "map_area"]
    assert not any(row["problem"] for row in differences)


def compared(runs: Sequence[RunDir], metric: str = "top1") -> dict[str, Comparison]:
    return {one.dataset: one for one in comparisons([collect(run) for run in runs], METRICS[metric])}


def test_runs_are_compared_by_a_paired_bootstrap_over_images(pair: tuple[RunDir, RunDir]) -> None:
    found = compared(pair)
    one = found["voc2007"]
    assert one.metric == "map11"
    assert one.gain == pytest.approx(voc(pair[0]).mean - voc(pair[1]).mean)
    assert one.interval is not None
    assert one.p is not None
    assert one.interval.low < one.gain < one.interval.high
    assert found[MEAN].gain == pytest.approx((one.gain + found["dtd"].gain) / 2)
    assert list(compared(pair, "map_area")) == ["voc2007"]
    assert re.search(r"one − two +exact +voc2007 \(mAP\) +\+", tables.text_table([collect(run) for run in pair]))
    alone = [RunDir(pair[0].root.with_name(f"{run.name}_alone")) for run in pair]
    for run, to in zip(pair, alone, strict=True):
        write_ranked(to, 0, voc(run).predictions[0])
    single = compared(alone)["voc2007"]
    samples = [replicates(cell.predictions[0].label, cell.predictions[0].rank)[0] for cell in map(voc, alone)]
    spread = np.std(samples[0] - samples[1])
    assert single.interval.half == pytest.approx(1.96 * spread, rel=0.05)
    assert single.interval.half < 1.96 * math.hypot(*np.std(samples, axis=1)), "the images are the same"


def test_equal_rankings_have_no_significant_difference_and_an_interval(pair: tuple[RunDir, RunDir]) -> None:
    found = compared([pair[0], pair[0]])["voc2007"]
    assert (found.gain, found.p) == (0, 1)
    assert 0 < found.interval.half < 0.05


def test_perfect_ranking_has_an_interval_that_is_not_empty(tmp_path: Path) -> None:
    run, labels = RunDir(tmp_path / "run"), ranking(300, 0, np.random.default_rng(0)).label
    write_ranked(run, 0, Rankings(labels, ranks(labels.astype(float))))
    found = voc(run).estimates["map11"]
    assert (found.value, found.interval.high) == (1.0, 1.0)
    assert 0.9 < found.interval.low < 0.999


def test_damaged_rankings_leave_the_score_without_an_interval(pair: tuple[RunDir, RunDir]) -> None:
    predictions_file(pair[0].probe("voc2007", "exact", 1)).write_bytes(b"damaged")
    data = collect(pair[0])
    assert re.fullmatch(r"\d\d\.\d", tables.cell_text(data.cells["exact", "voc2007"]))
    assert "one: no interval and no test for voc2007 (exact): " in re.sub(r"\s+", " ", tables.text_table([data]))


def test_seed_with_scores_of_another_sort_is_left_out(pair: tuple[RunDir, RunDir]) -> None:
    result(pair[0], "voc2007", 2, 0.5, classes=tuple("abcde"), test=replace(SINGLE, per_class=(0.5,) * 5))
    data = collect(pair[0])
    assert len(data.cells["exact", "voc2007"].results) == 2
    assert f"{pair[0].probe('voc2007', 'exact', 2)}: has other scores than seed 0" in data.damaged[0]


def test_classes_have_their_average_precision_and_no_confusion(pair: tuple[RunDir, RunDir]) -> None:
    data = collect(pair[0])
    lines = classes_text([data], "voc2007").splitlines()
    mean = f"{100 * voc(pair[0]).mean:.1f}"
    assert lines[0] == f"one: voc2007, exact: mean average precision over 11 points (mAP) {mean} % over 5 classes"
    assert lines[1].split("  ") == ["class", "average precision, %"]
    assert len(lines) == 3 + CLASSES
    assert confusion_csv([data], "voc2007").count("\n") == 1
    assert "Mean average precision over 11 points (mAP)" in page([data])
    assert "validation mAP, %" in page([data])


def test_map_at_milestones_is_marked_too(pair: tuple[RunDir, RunDir]) -> None:
    for epoch in (5, 10):
        write_ranked(pair[0].at(epoch), 0, ranking(100, 0.2 * epoch, np.random.default_rng(0)))
    data = [collect(pair[0])]
    table = tables.text_table(data).partition("transfer against epoch, probe: exact\n")[2].splitlines()
    assert table[0].split() == ["run", "epoch", "voc2007", "(mAP)"]
    assert "mAP, %" in page(data)
    assert [bool(row["map11"]) for row in rows(milestones_csv(data))] == [True, True]


def test_kinds_that_were_left_out_are_in_the_notes_and_do_not_count_as_missing(pair: tuple[RunDir, RunDir]) -> None:
    pair[0].config.write_text("extract: {datasets: [dtd, voc2007]}\nprobe: {seeds: 2, kinds: [exact, knn20]}\n")
    text = re.sub(r"\s+", " ", tables.text_table([collect(pair[0])]))
    assert "one: voc2007: an image may have several classes, and only the kind exact can be fitted on such a" in text
    assert "no results for dtd (knn20)." in text


def test_result_with_scores_of_both_sorts_is_refused(pair: tuple[RunDir, RunDir]) -> None:
    path = pair[0].probe("voc2007", "exact", 0)
    for change in ('"top1": 0.5', '"map_area": null'):
        key = change.partition(":")[0]
        text = re.sub(rf"{key}: [^,\n]*", change, path.read_text(), count=1)
        assert text != path.read_text()
        with pytest.raises(Exception, match="expected either top1, mean_per_class, ece or map11, map_area"):
            ProbeResult.parse(text.encode(), "seed_0.json")


# ---- how often intervals and tests are right


@pytest.mark.parametrize(("images", "gap"), [(300, 1.5), pytest.param(800, 2.5, marks=pytest.mark.slow)])
def test_intervals_cover_and_equal_runs_are_rarely_different(images: int, gap: float) -> None:
    """The precision over 11 points depends on the number of images: the truth is its mean over sets of as many."""
    chance, repeats = np.random.default_rng(0), 120
    values, intervals, rejected = [], [], []
    for _ in range(repeats):
        one = ranking(images, gap, chance)
        other = ranking(images, gap, chance, one.label)
        values.append(mean_average_precision(one.label, one.rank)[:, 0])
        intervals.append([interval((one,), metric) for metric in ("map11", "map_area")])
        gain = float(values[-1][0] - mean_average_precision(other.label, other.rank)[0, 0])
        difference, p = bootstrap_comparison(gain, one.replicates[0] - other.replicates[0], images_of_classes(one))
        rejected.append(p <= 0.05)
        assert (p <= 0.05) == (not difference.low <= 0 <= difference.high)
    for truth, found in zip(np.mean(values, axis=0), zip(*intervals, strict=True), strict=True):
        covered = np.mean([one.low <= truth <= one.high for one in found])
        assert 0.91 <= covered < 1
        assert 1.96 * np.std(values, axis=0).min() == pytest.approx(np.mean([one.half for one in found]), rel=0.3)
    assert np.mean(rejected) <= 0.05 + 0.03
