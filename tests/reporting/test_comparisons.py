"""Reports with predictions: intervals in every table, and differences between runs that are tested on the images."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from jobs.plan.runs import save_config
from tests.reporting.test_report import made_by, result
from trex.config import Config, load
from trex.distributed import Ranks
from trex.features.extract import extract
from trex.interruption import StopRequest
from trex.probing.predictions import Outcomes, write_predictions
from trex.probing.probe import probe
from trex.probing.scores import scores
from trex.records.probe_result import ImageCounts, predictions_file
from trex.records.run_dir import RunDir
from trex.reporting import tables
from trex.reporting.cell import Cell
from trex.reporting.collect import RunData, collect
from trex.reporting.compare import MEAN, Comparison, comparisons
from trex.reporting.metric import METRICS, TOP1
from trex.reporting.page import page
from trex.reporting.spreadsheets import cells_csv, differences_csv, results_csv

CLASSES = 7
#: The metrics of datasets whose images have one class each.
ONE_CLASS = [name for name, metric in METRICS.items() if not metric.multi_label]


def write_tested(
    run: RunDir, dataset: str, seed: int, correct: np.ndarray, kind: str = "exact", images: str = "i",
    encoder: str = "abc",
) -> None:  # fmt: skip
    """Write a result and its predictions; `correct` is (n,) bool."""
    labels = np.arange(len(correct)) % CLASSES
    predicted = np.where(correct, labels, (labels + 1) % CLASSES)
    rank = np.where(correct, 0, 1 + 4 * (np.arange(len(correct)) % 2)).astype(np.uint8)
    likelihood = np.where(correct, -0.1, -2.0).astype(np.float32)
    found = Outcomes(predicted, rank, likelihood, np.full(len(correct), 0.9, np.float32))
    path = run.probe(dataset, kind, seed)
    digest = write_predictions(predictions_file(path), labels, found, CLASSES)
    result(
        run, dataset, seed, float(correct.mean()), probe=kind, classes=tuple("abcdefg"), predictions=digest,
        counts=ImageCounts(8, 2, len(correct)), test=scores(labels, found, CLASSES),
        provenance=replace(made_by(encoder), test_images=images),
    )  # fmt: skip


@pytest.fixture
def pair(tmp_path: Path) -> tuple[RunDir, RunDir]:
    found = RunDir(tmp_path / "one"), RunDir(tmp_path / "two")
    for run in found:
        run.root.mkdir()
    return found


def compared(runs: Sequence[RunDir], metric: str = "top1") -> dict[str, Comparison]:
    return {item.dataset: item for item in comparisons([collect(run) for run in runs], METRICS[metric])}


def hits(images: int, wrong: Sequence[int] | range) -> np.ndarray:
    found = np.ones(images, bool)
    found[list(wrong)] = False
    return found


def test_five_images_of_six_hundred_are_reported_with_the_interval_of_paired_proportions(
    pair: tuple[RunDir, RunDir],
) -> None:
    """One classifies 5 images more; 8 images only one, 3 only the other."""
    write_tested(pair[0], "dtd", 0, hits(600, range(3)))
    write_tested(pair[1], "dtd", 0, hits(600, range(10, 18)))
    found = compared(pair)["dtd"]
    assert found.gain == pytest.approx(5 / 600)
    assert found.p == pytest.approx(binomtest(3, 11).pvalue)
    assert found.interval is not None
    ours, theirs = 9 / 602, 4 / 602
    half = 1.96 * ((ours + theirs - (ours - theirs) ** 2) / 602) ** 0.5
    assert (found.interval.low, found.interval.high) == pytest.approx((5 / 602 - half, 5 / 602 + half), abs=1e-5)
    assert found.interval.low < 0, "the interval and the test agree that this may be chance"
    text = tables.text_table([collect(run) for run in pair])
    assert re.search(r"one − two +exact +dtd +\+0\.8 +-0\.3 … \+2\.0 +0\.23", text)


def test_difference_that_is_clear_is_significant_also_after_the_correction(pair: tuple[RunDir, RunDir]) -> None:
    for dataset, wrong in (("dtd", 30), ("pets", 4), ("flowers", 0)):
        for seed in range(3):
            write_tested(pair[0], dataset, seed, hits(600, range(seed, 3)))
            write_tested(pair[1], dataset, seed, hits(600, range(10, 13 + wrong)))
    found = compared(pair)
    assert found["dtd"].adjusted_p == pytest.approx(3 * found["dtd"].p)
    assert found["dtd"].adjusted_p < 1e-4
    assert min(found["pets"].adjusted_p, found["flowers"].adjusted_p) > 0.05
    overall = found[MEAN]
    assert overall.gain == pytest.approx(np.mean([found[name].gain for name in ("dtd", "pets", "flowers")]))
    halves = [found[name].interval.half for name in ("dtd", "pets", "flowers")]
    assert overall.interval.half == pytest.approx(np.sqrt(np.square(halves).sum()) / 3)
    assert (overall.p, overall.adjusted_p) == (None, None)


def test_difference_is_over_the_common_seeds(pair: tuple[RunDir, RunDir]) -> None:
    for seed, wrong in enumerate((3, 5, 0)):
        write_tested(pair[0], "dtd", seed, hits(100, range(wrong)))
    write_tested(pair[1], "dtd", 0, hits(100, range(7)))
    write_tested(pair[1], "dtd", 1, hits(100, range(9)))
    found = compared(pair)["dtd"]
    assert (found.gain, found.seeds) == (pytest.approx(0.04), 2)


def test_without_a_common_seed_all_seeds_are_compared(pair: tuple[RunDir, RunDir]) -> None:
    for seed in range(2):
        write_tested(pair[0], "dtd", seed, hits(100, range(3 + seed)))
        write_tested(pair[1], "dtd", seed + 2, hits(100, range(5)))
    found = compared(pair)["dtd"]
    assert (found.gain, found.seeds) == (pytest.approx(0.015), 2)
    assert found.seed_error == pytest.approx((0.01**2 / 2 / 2) ** 0.5)


def test_spread_over_seeds_counts_against_a_difference(pair: tuple[RunDir, RunDir]) -> None:
    """The mean difference is the same on both datasets; on the second one the seeds contradict each other."""
    for seed, (steady, contrary) in enumerate([(50, 150), (50, -20), (50, 20)]):
        for dataset, more in (("dtd", steady), ("pets", contrary)):
            write_tested(pair[0], dataset, seed, hits(1000, range(20)))
            write_tested(pair[1], dataset, seed, hits(1000, range(20 + more)))
    found = compared(pair)
    assert (found["dtd"].gain, found["pets"].gain) == pytest.approx((0.05, 0.05))
    assert found["dtd"].seed_error == pytest.approx(0, abs=1e-12)
    assert found["pets"].seed_error == pytest.approx(np.std([0.15, -0.02, 0.02], ddof=1) / 3**0.5)
    assert found["dtd"].p < 1e-6 < 0.05 < found["pets"].p
    assert found["pets"].interval.half > 2 * found["dtd"].interval.half


def test_runs_with_other_test_images_are_not_tested_and_it_says_so(pair: tuple[RunDir, RunDir]) -> None:
    write_tested(pair[0], "dtd", 0, hits(100, range(3)))
    write_tested(pair[1], "dtd", 0, hits(100, range(9)), images="others")
    found = compared(pair)["dtd"]
    assert (found.gain, found.interval, found.p) == (pytest.approx(0.06), None, None)
    problem = "different test images, so no paired test is possible"
    assert found.problem == problem
    data = [collect(run) for run in pair]
    assert [problem in text for text in (tables.text_table(data), tables.markdown(data), page(data))] == [True] * 3


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_missing_predictions_are_named_and_take_only_the_intervals_and_tests(
    pair: tuple[RunDir, RunDir], damage: str
) -> None:
    for run in pair:
        for dataset in ("dtd", "pets"):
            write_tested(run, dataset, 0, hits(100, range(9)))
    path = predictions_file(pair[0].probe("dtd", "exact", 0))
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[::-1])
    data = [collect(run) for run in pair]
    text = tables.text_table(data)
    assert f"one: no interval and no test for dtd (exact): {path}: " in text
    assert "one: `trex probe` computes results again that are damaged or of another version." in text
    assert tables.rows(data, "exact")[1][0][1:3] == ["91.0", "91.0 ± 5.7"]
    found = compared(pair)
    assert (found["dtd"].problem, found["dtd"].p) == ("predictions are missing", None)
    assert found["pets"].p == 1
    page(data)


def test_interval_and_its_meaning_are_in_every_table(pair: tuple[RunDir, RunDir]) -> None:
    for kind in ("exact", "exact-5shot", "knn20"):
        write_tested(pair[0], "dtd", 0, hits(200, range(20)), kind)
        write_tested(pair[0], "dtd", 1, hits(200, range(20)), kind)
    data = [collect(pair[0])]
    expected = binomtest(180, 200).proportion_ci(method="wilson")
    assert tables.cell_text(data[0].cells["exact", "dtd"]) == f"90.0 ± {50 * (expected.high - expected.low):.1f}"
    for text in (re.sub(r"\s+", " ", tables.text_table(data)), tables.markdown(data), tables.latex(data), page(data)):
        assert len(re.findall(r"± half of the 95 % interval over test images\.", text)) >= 3
        assert text.count("Seeds differ in the validation images that choose C; the final fits use all of") == 1
        assert text.count("Seeds differ in the training images and the folds.") == 1
    [row] = [row for row in rows(cells_csv(data)) if (row["probe"], row["metric"]) == ("exact", "top1")]
    assert [float(row[end]) for end in ("low", "high")] == pytest.approx([expected.low, expected.high])
    assert (row["seeds"], float(row["sd_over_seeds"])) == ("2", 0)
    first = rows(results_csv(data))[0]
    assert [float(first[f"top1_{end}"]) for end in ("low", "high")] == pytest.approx([expected.low, expected.high])


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("name", ONE_CLASS)
def test_every_metric_has_its_tables(pair: tuple[RunDir, RunDir], name: str) -> None:
    metric = METRICS[name]
    for number, run in enumerate(pair):
        write_tested(run, "dtd", 0, hits(200, range(20 + 30 * number)))
    data = [collect(run) for run in pair]
    values = [getattr(one.cells["exact", "dtd"].results[0].test, name) for one in data]
    table = tables.rows(data, "exact", metric)[1]
    assert [row[1].split(" ± ")[0] for row in table] == [metric.text(value) for value in values]
    assert all(("±" in row[1]) == (name != "ece") for row in table)
    found = compared(pair, name)["dtd"]
    assert found.gain == pytest.approx(values[0] - values[1])
    assert (found.p is None) == (name == "ece")
    if found.p is not None:
        assert found.p < 0.001
        assert found.interval is not None
        assert found.interval.low < found.gain < found.interval.high
    text = page(data, metric)
    best = re.findall(r'<td class="best">(.*?)</td>', re.sub(r"<details.*?</details>", "", text, flags=re.DOTALL))
    assert best == [table[0][1] if name != "ece" or values[0] < values[1] else table[1][1]]
    text = tables.text_table(data[:1], metric)
    assert metric.title in text.lower()
    assert ("±" in tables.caption(data, "exact", metric)) == (name != "ece"), "nothing explains a ± that is not there"


def test_files_have_all_metrics(pair: tuple[RunDir, RunDir]) -> None:
    for run in pair:
        write_tested(run, "dtd", 0, hits(200, range(20)))
    data = [collect(run) for run in pair]
    assert {row["metric"] for row in rows(cells_csv(data))} == set(ONE_CLASS)
    assert {row["metric"] for row in rows(differences_csv(data))} == set(ONE_CLASS)
    assert set(METRICS) <= set(rows(results_csv(data))[0])


@pytest.mark.slow
def test_runs_of_one_encoder_that_differ_by_nothing_are_not_significantly_different_in_20_of_20_reports(
    tmp_path: Path,
) -> None:
    """Real probes on real images. Report n compares seeds n and n + 1 of one run with n + 2 and n + 3 of another."""
    path = tmp_path / "c.yaml"
    path.write_text(
        "extract: {datasets: [digits, digits_unseen], weights: pixels, resize: 8, crop: 8}\n"
        "probe: {seeds: 23, kinds: [exact, exact-5shot]}\ndata: {workers: 0}\n"
    )
    config = load(path, Config, [f"runs={tmp_path}/runs", "name=one"])
    run = RunDir.of(config)
    save_config(run, config)
    for dataset in config.extract.datasets:
        extract(run, config, dataset, Ranks(), StopRequest())
        probe(run, config, dataset, range(23), StopRequest())
    data = collect(run)
    assert not data.untested

    def only(first: int) -> RunData:
        cells = {
            key: Cell(cell.results[first : first + 2], cell.predictions[first : first + 2])
            for key, cell in data.cells.items()
        }
        return replace(data, cells=cells)

    assert all(one.gain == 0 and one.p in (None, 1.0) for one in comparisons([data, data], TOP1))
    chosen = {result.search.best["C"] for result in data.cells["exact", "digits"].results}
    assert len(chosen) > 1, "the seeds differ"
    outside = 0
    for number in range(20):
        report = comparisons([only(number), only(number + 2)], TOP1)
        tests = {(one.kind, one.dataset): one for one in report if one.p is not None}
        assert len(tests) == 4
        assert min(one.adjusted_p for one in tests.values()) > 0.05
        means = [one.interval for one in report if one.dataset == MEAN]
        assert len(means) == 2
        outside += sum(not one.low < 0 < one.high for one in means)
    assert outside < 5, (
        "of 40 intervals of 95 %, two are expected to leave out 0; five or more have a probability of 5 %"
    )
