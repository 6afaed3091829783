"""Charts and tables at the edges: one value, equal values, huge ranges, names that mean something to the format."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.reporting.test_report import made_by, result
from trex.records.probe_result import ImageCounts
from trex.records.run_dir import RunDir
from trex.reporting import tables
from trex.reporting.cell import Cell
from trex.reporting.charts import HEIGHT, WIDTH, Dot, Series, line_chart, whisker_chart
from trex.reporting.collect import Average, average, collect

NUMBER = re.compile(r'(?:x|y|x1|x2|y1|y2|cx|cy)="([^"]*)"|points="([^"]*)"')


def coordinates(svg: str) -> list[float]:
    """All coordinates of a chart, which is well-formed."""
    ElementTree.fromstring(svg)
    found = [one or more for one, more in NUMBER.findall(svg)]
    return [float(number) for text in found for number in re.split("[ ,]", text)]


def series(*points: tuple[float, float]) -> Series:
    return Series("a <b> & 'c'", list(points), 9)


@pytest.mark.parametrize(
    "points",
    [
        [(3.0, 7.0)],
        [(3.0, 7.0), (3.0, 7.0)],
        [(0.0, 0.0), (1.0, 0.0)],
        [(0.0, -1e30), (1e9, 1e30)],
        [(1.0, 1.0), (2.0, 1.0 + 1e-15)],
        [(0.0, 1e-13), (1.0, 2e-13)],
    ],
)
def test_chart_of_odd_values_stays_within_its_frame(points: list[tuple[float, float]]) -> None:
    found = coordinates(line_chart([series(*points)], "step", "loss", marks=[points[0][0], 1e12]))
    assert all(0 <= number <= max(WIDTH, HEIGHT) for number in found)


@pytest.mark.parametrize("xs", [(1e-300, 1e300), (1e-5, 1e6), (3.0, 3.0), (0.1, 0.11)])
def test_logarithmic_chart_stays_within_its_frame(xs: tuple[float, float]) -> None:
    points = [(x, 50.0) for x in xs]
    svg = line_chart([series(*points)], "C", "top-1", log_x=True, dots=True, chosen=[(*points[0], 0)])
    assert all(0 <= number <= max(WIDTH, HEIGHT) for number in coordinates(svg))
    assert svg.count('class="ring') == 1


def test_mark_outside_of_the_curve_is_not_drawn() -> None:
    svg = line_chart([series((10.0, 1.0), (20.0, 2.0))], "step", "loss", marks=[9, 10, 15, 20, 21])
    assert svg.count('class="mark"') == 3


def test_names_in_a_chart_stay_text() -> None:
    for svg in (
        line_chart([series((1.0, 1.0))], "<x>", "<y>"),
        whisker_chart([("<dtd>", [Dot("<run>", 50.0, 49.0, 51.5, 0)])], "<x>"),
    ):
        coordinates(svg)
        assert "<x>" not in svg


def test_whiskers_of_many_runs_have_a_row_each() -> None:
    items = [Dot(f"run{i}", 50.0 + i, 49.0 + i, 51.5 + i, i) for i in range(10)]
    svg = whisker_chart([("dtd", items), ("pets", items[:1])], "top-1")
    coordinates(svg)
    assert svg.count('class="whisker') == 11
    assert len(set(re.findall(r'class="whisker [^>]*y1="([\d.]+)"', svg))) == 11


def test_chart_of_nothing_says_so() -> None:
    assert "no data" in line_chart([], "step", "loss")
    assert "no data" in whisker_chart([("dtd", [])], "top-1")


# ---- tables


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "one")
    made.root.mkdir()
    return made


def cell(run: RunDir, dataset: str = "dtd") -> Cell:
    return collect(run).cells["exact", dataset]


def test_single_seed_has_no_spread(run: RunDir) -> None:
    result(run, "dtd", 0, 0.7)
    assert cell(run).estimates["top1"].spread is None
    result(run, "dtd", 1, 0.8)
    assert cell(run).estimates["top1"].spread == pytest.approx(0.1 / 2**0.5)
    assert tables.cell_text(cell(run)) == "75.0", "the spread over seeds is no uncertainty of the mean"


def test_one_seed_of_a_subset_marks_the_whole_cell(run: RunDir) -> None:
    result(run, "dtd", 0, 0.7)
    result(run, "dtd", 1, 0.7, comparable=False)
    assert tables.cell_text(cell(run)) == "70.0*"


@pytest.mark.parametrize(("top1", "images", "sign"), [(0.0, 50, -1), (1.0, 50, 1), (1.0, 0, 0), (0.5, 50, 0)])
def test_log_odds_are_finite_whatever_the_accuracy(run: RunDir, top1: float, images: int, sign: int) -> None:
    result(run, "dtd", 0, top1, counts=ImageCounts(8, 2, images))
    assert abs(cell(run).log_odds) < 10
    assert (cell(run).log_odds > 1e-9) - (cell(run).log_odds < -1e-9) == sign


def test_average_of_datasets_of_ones_own_is_over_all_of_them(run: RunDir) -> None:
    result(run, "birds", 0, 0.4)
    result(run, "cats", 0, 0.8)
    found = average(collect(run), "exact", ["birds", "cats", "dogs"])
    assert (found.mean, found.count, found.of) == (pytest.approx(0.6), 2, 3)
    assert tables.average_texts(found)[0] == "60.0 (2/3 datasets)"
    assert tables.average_texts(Average(None, None, None, 0, 15)) == (tables.MISSING, tables.MISSING)


def test_seeds_are_in_the_order_of_their_numbers(run: RunDir) -> None:
    for seed in (10, 9, 0):
        result(run, "dtd", seed, seed / 100)
    assert cell(run).main == [0.0, 0.09, 0.1]


def test_special_characters_of_a_name_stay_text_in_every_table(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "50%_a&b|c#1")
    result(run, "dtd", 0, 0.7, provenance=made_by())
    data = [collect(run)]
    assert r"50\%\_a\&b\textbar{}c\#1 & 70.0" in tables.latex(data)
    assert r"| 50%\_a&b\|c#1 | 70.0 |" in tables.markdown(data)


def test_columns_of_a_text_table_line_up() -> None:
    head, rule, first, second = tables.aligned([("name", "n"), ("a", "100"), ("long name", "7")])
    assert (head, first, second) == ("name         n", "a          100", "long name    7")
    assert rule == "-" * len(second)


def test_run_without_a_config_is_collected_from_its_results(run: RunDir) -> None:
    result(run, "dtd", 0, 0.7)
    data = collect(run)
    assert (data.config, data.wanted, data.usage) == ("", {}, {})


def test_config_that_is_damaged_does_not_hide_the_results(run: RunDir) -> None:
    result(run, "dtd", 0, 0.7)
    run.config.write_text("nonsense: 1\n")
    assert collect(run).wanted == {}
    assert "70.0" in tables.text_table([collect(run)])


def test_file_among_the_results_that_has_no_seed_in_its_name_is_named(run: RunDir) -> None:
    result(run, "dtd", 0, 0.7)
    path = run.probe("dtd", "exact", 0)
    path.with_name("seed_one.json").write_bytes(path.read_bytes())
    data = collect(run)
    assert data.cells["exact", "dtd"].main == [0.7]
    (problem,) = data.damaged
    assert "seed_one.json" in problem
