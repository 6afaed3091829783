"""What the report's page says and marks, read back from its HTML."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

from tests.records.examples import EVENTS
from tests.reporting.test_report import made_by, result, write_report
from trex.records.attempts import Start
from trex.records.environment import Environment, Node
from trex.records.events import AttemptEnded, CheckpointSaved
from trex.records.metrics import MetricsLine
from trex.records.probe_result import Scores, Search, Trial
from trex.records.run_dir import RunDir
from trex.reporting import write
from trex.reporting.collect import collect
from trex.reporting.style import STYLE


def make_run(folder: Path, **top1: float) -> RunDir:
    run = RunDir(folder)
    run.root.mkdir(parents=True)
    for dataset, value in top1.items():
        result(run, dataset, 0, value)
    return run


def page(*runs: RunDir) -> str:
    return write_report(runs, runs[0].report).read_text()


def best(text: str) -> list[str]:
    """The cells that stand out, in the tables that are not folded away."""
    shown = re.sub(r"<details.*?</details>", "", text, flags=re.DOTALL)
    return re.findall(r'<td class="best">(.*?)</td>', shown)


def section(text: str, title: str) -> str:
    found = re.search(rf"<section><h2>{title}</h2>(.*?)</section>", text, re.DOTALL)
    assert found, title
    return unescape(re.sub("<[^>]+>", " ", found[1]))


def test_highest_accuracy_of_each_dataset_stands_out(tmp_path: Path) -> None:
    runs = make_run(tmp_path / "one", dtd=0.7, pets=0.5), make_run(tmp_path / "two", dtd=0.6, pets=0.9)
    assert best(page(*runs)) == ["70.0", "90.0"]


def test_of_two_runs_of_one_name_only_the_better_one_stands_out(tmp_path: Path) -> None:
    assert best(page(make_run(tmp_path / "a/same", dtd=0.6), make_run(tmp_path / "b/same", dtd=0.7))) == ["70.0"]


def test_nothing_stands_out_among_equal_runs(tmp_path: Path) -> None:
    runs = make_run(tmp_path / "one", dtd=0.7), make_run(tmp_path / "two", dtd=0.7)
    assert best(page(*runs)) == []


def test_nothing_stands_out_where_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    runs = make_run(tmp_path / "one", dtd=0.7), make_run(tmp_path / "two", pets=0.6)
    assert best(page(*runs)) == []


def test_head_names_the_run_with_the_highest_mean_and_over_how_many_datasets(tmp_path: Path) -> None:
    runs = make_run(tmp_path / "one", dtd=0.7, pets=0.5), make_run(tmp_path / "two", dtd=0.6, pets=0.9)
    lead = re.search(r'<p class="lead">(.*?)</p>', page(*runs))
    assert lead
    assert [word in lead[1] for word in ("two", "75.0 %", "2 datasets")] == [True] * 3
    assert "1 dataset " in page(make_run(tmp_path / "three", dtd=0.7))


def test_legend_and_differences_are_shown_for_several_runs_only(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "one", dtd=0.7), make_run(tmp_path / "two", dtd=0.6)
    assert 'class="legend"' not in page(one)
    assert "<h2>Differences</h2>" not in page(one)
    both = page(one, two)
    assert both.count('class="swatch ') == 2
    assert re.search(r"one − two +exact +dtd +\+10\.0 +predictions are missing +–", section(both, "Differences"))


def left_columns(line: str) -> list[str]:
    """The texts of the cells of a table row that are aligned to the left."""
    cells = re.findall(r"<t[hd]([^>]*)>(.*?)</t[hd]>", line)
    return [unescape(text) for attributes, text in cells if 'class="left"' in attributes]


def test_headers_are_aligned_as_their_columns(tmp_path: Path) -> None:
    runs = make_run(tmp_path / "one", dtd=0.7, pets=0.5), make_run(tmp_path / "two", dtd=0.6)
    AttemptEnded(0.0, "train", ("train",), "12_3", 4, 75, "saved", None, "nothing", 1.5).append(runs[0].events)
    heads = {}
    for table in re.findall("<table>.*?</table>", page(*runs)):
        head, *rows = [left_columns(line) for line in re.findall("<tr>.*?</tr>", table)]
        heads[head[0]] = head
        assert {len(row) for row in rows} == {len(head)}
    assert heads == {
        "run": ["run"],
        "runs": ["runs", "probe", "dataset"],
        "class": ["class", "confused with (share of its images)"],
        "model": ["model", "source"],
        "stage": ["stage", "job", "reason"],
    }
    rules = re.findall(r"([^{}]*)\{[^{}]*text-align:(left|right)", STYLE)
    assert [(names.strip(), side) for names, side in rules] == [("th,td", "right"), (".left", "left")]


def test_runs_without_a_common_dataset_are_not_compared(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "one", dtd=0.7), make_run(tmp_path / "two", pets=0.6)
    assert "<h2>Differences</h2>" not in page(one, two)


def test_interruptions_are_marked_in_every_curve_with_their_step(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one")
    for step in (10, 20, 30):
        MetricsLine("train", step, step / 10, {"loss": 1.0 / step, "lr": 0.1}, 0.0).append(run.metrics)
    for step, reason in ((20, "stop"), (25, "timer"), (20, "stop")):
        CheckpointSaved(0.0, step, reason, 0.1, seconds_signal_to_saved=None).append(run.events)  # type: ignore[arg-type]
    text = page(run)
    assert "at step 20." in section(text, "Training")
    assert text.count('<line class="mark"') == 2 * 2, "two events in each of the two charts that have a curve"


def test_validation_is_a_dashed_line_beside_the_training(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one")
    for phase in ("train", "validation"):
        for step in (1, 2):
            MetricsLine(phase, step, 1.0, {"loss": 1.0 * step}, 0.0).append(run.metrics)  # type: ignore[arg-type]
    lines = re.findall(r'<polyline class="line s0( dashed)?".*?<title>(.*?)</title>', page(run))
    assert lines == [("", "one, train"), (" dashed", "one, validation")]


def test_run_that_only_evaluates_says_that_there_was_no_training(tmp_path: Path) -> None:
    assert "no training" in section(page(make_run(tmp_path / "one", dtd=0.7)), "Training")


def test_choice_at_the_edge_of_the_search_is_a_warning_with_run_and_seed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one", dtd=0.7)
    assert "edge" not in section(page(run), "Search")
    search = Search({"C": 0.1}, 0.6, "low", (Trial({"C": 0.1}, 0.6, 0.1), Trial({"C": 1.0}, 0.5, 0.1)))
    result(run, "dtd", 1, 0.7, search=search)
    text = page(run)
    assert "one seed 1: low" in section(text, "Search")
    assert text.count('<circle class="ring ') == 1, "the choice of the first seed"


def test_probe_without_a_search_has_no_chart(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one")
    result(run, "dtd", 0, 0.7, search=Search({"k": 20.0}))
    assert "no search" in section(page(run), "Search")


def test_ten_classes_with_the_lowest_accuracy_are_listed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one")
    accuracies = tuple(i / 20 for i in range(12))
    confusion = tuple((i, i, 20) for i in range(12))
    test = Scores(0.5, 0.9, sum(accuracies) / 12, 0.5, 0.1, 0, accuracies, confusion)
    result(run, "dtd", 0, 0.5, classes=tuple(f"class{i}" for i in range(12)), test=test)
    shown = re.findall(r"class\d+", section(page(run), "Classes"))
    assert shown == [f"class{i}" for i in range(10)]


def test_weights_are_listed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one", dtd=0.7)
    result(run, "dtd", 1, 0.7, provenance=made_by("0123456789abcdef", "weights.pth"))
    assert "weights.pth (0123456789ab)" in section(page(run), "Provenance")


def rows(text: str) -> list[list[str]]:
    """The rows of the table of the stages."""
    table = re.findall(r"<table>(.*?)</table>", text.partition("<h2>Provenance</h2>")[2], re.DOTALL)[0]
    cells = (re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", table))
    return [[unescape(cell) for cell in row] for row in cells]


def test_each_stage_has_its_own_machines_versions_and_usage_over_all_its_starts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one", dtd=0.7)
    start, end = EVENTS[:2]
    (on_gpus,) = [event for event in EVENTS if isinstance(event, Environment)]
    other_gpus = replace(on_gpus, restart=1, nodes=(Node("n3", 8, {"Y": 8}, "EPYC", 64),), packages={"torch": "2.15.0"})
    one = {"stage": "probe", "keys": ("probe-dtd",), "job": "13_0"}
    on_a_cpu = replace(on_gpus, **one, nodes=(Node("n9", 1, {}, "Xeon", 4),), libraries={})
    for event in (
        start, on_gpus, replace(end, stage="train", keys=("train",), seconds=900.0),
        replace(start, restart=1), other_gpus, replace(end, stage="train", keys=("train",), restart=1, seconds=450.0),
        replace(start, **one), on_a_cpu, replace(end, **one, seconds=90.0),
    ):  # fmt: skip
        event.append(run.events)
    assert rows(page(run)) == [
        ["", "train", "probe"],
        ["devices", "8 x X → 8 x Y", "4 CPUs (Xeon)"],
        ["nodes", "n1, n2, n3", "n9"],
        ["processes", "8", "1"],
        ["CPU", "EPYC", ""],
        ["code", *["commit 0123456789ab (modified), copy c0de"] * 2],
        ["Python", "3.12.1", "3.12.1"],
        ["platform", "Linux", "Linux"],
        ["CUDA", "13.0", ""],
        ["torch", "2.14.1 → 2.15.0", "2.14.1"],
        ["GPU-hours", "3", ""],
        ["core-hours", "24", "0.1"],
    ]
    accounting = {"12": [Start("NODE_FAIL", 3600, 64, 8, 7_200_000), Start("COMPLETED", 1800)]}
    shown = rows(write.write_report([collect(run, accounting)], run.report).read_text())
    assert shown[-3:] == [["GPU-hours", "12", ""], ["core-hours", "96", "0.1"], ["energy, kWh", "2", ""]]


def test_every_end_of_an_attempt_is_listed_with_code_and_reason(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one")
    for code, reason in ((75, "saved at step 7"), (1, "x" * 300)):
        AttemptEnded(0.0, "train", ("train",), "12_3", 4, code, reason, None, "nothing", 1.5).append(run.events)
    found = section(page(run), "Provenance")
    assert "2 attempts" in found
    assert re.search(r"train +12_3 +4 +1\.5 +75 +saved at step 7", found)
    assert "x" * 200 in found
    assert "x" * 201 not in found
