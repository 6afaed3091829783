"""The report: missing values stay missing, problems are listed, and content of files is never executed."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from trex.errors import UserError
from trex.records.probe_result import ImageCounts, ProbeProvenance, ProbeResult, Scores, Search, Trial
from trex.records.run_dir import RunDir
from trex.reporting import tables, write
from trex.reporting.collect import PUBLISHED_AVERAGE, average, collect
from trex.reporting.page import page
from trex.reporting.spreadsheets import results_csv


def made_by(
    encoder_digest: str = "abc", weights: str = "epoch-0001", transform: str = "published: resize 224"
) -> ProbeProvenance:
    return ProbeProvenance(
        "t", "t", "i", encoder_digest, weights, transform, "float32", normalized=False, fitted_by="exact solver 3"
    )


def write_report(runs: Sequence[RunDir], folder: Path) -> Path:
    return write.write_report([collect(run) for run in runs], folder)


def text_table(runs: Sequence[RunDir]) -> str:
    return tables.text_table([collect(run) for run in runs])


def class_tables(runs: Sequence[RunDir], dataset: str, folder: Path) -> str:
    return write.class_tables([collect(run) for run in runs], dataset, folder)


def result(run: RunDir, dataset: str, seed: int, top1: float, **more: object) -> None:
    """Write a result file as a probe does."""
    value = ProbeResult(
        run=run.name,
        dataset=dataset,
        probe="exact",
        seed=seed,
        comparable=True,
        classes=("cat", "dog"),
        counts=ImageCounts(train=8, validation=2, test=50),
        search=Search({"C": 1.0}, 0.6, None, tuple(Trial({"C": c}, 0.5, 0.1) for c in (0.1, 1.0))),
        test=Scores(top1, None, top1, 0.5, 0.1, 1, (top1, None), ((0, 0, 1), (0, 1, 2))),
        predictions="p",
        seconds=1.0,
        provenance=made_by(),
        versions={},
    )
    value = replace(value, **more)
    value.write(run.probe(dataset, value.probe, seed))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "one")
    run.root.mkdir()
    return run


def test_mean_and_log_odds_are_over_the_fifteen_datasets_without_in1k_and_show_their_number(run: RunDir) -> None:
    result(run, "in1k", 0, 0.99)
    for dataset, top1 in (("dtd", 0.7), ("pets", 0.9)):
        for seed, shift in enumerate((-0.01, 0.01)):
            result(run, dataset, seed, top1 + shift)
    found = average(collect(run), "exact", ["in1k", "dtd", "pets"])
    assert found.mean == pytest.approx(0.8)
    assert found.log_odds == pytest.approx((math.log(0.7 / 0.3) + math.log(0.9 / 0.1)) / 2)
    assert (found.count, found.of) == (2, 15)
    assert "80.0 (2/15 datasets)" in text_table([run])


def test_another_dataset_does_not_change_the_published_average(run: RunDir) -> None:
    for dataset in PUBLISHED_AVERAGE:
        result(run, dataset, 0, 0.6)
    before = average(collect(run), "exact", PUBLISHED_AVERAGE)
    assert (before.mean, before.count, before.of) == (pytest.approx(0.6), 15, 15)
    result(run, "digits", 0, 0.9)
    assert average(collect(run), "exact", [*PUBLISHED_AVERAGE, "digits"]) == before
    assert "datasets)" not in text_table([run]), "the average is complete: 15 of 15"


def test_hundred_percent_has_finite_log_odds_and_a_note(run: RunDir) -> None:
    result(run, "dtd", 0, 1.0)
    assert collect(run).cells["exact", "dtd"].log_odds == pytest.approx(math.log(0.99 / 0.01))
    assert "Log-odds count 100 %" in text_table([run])


def test_missing_cell_is_a_dash_and_named_in_the_notes(run: RunDir, tmp_path: Path) -> None:
    other = RunDir(tmp_path / "other")
    other.root.mkdir()
    result(run, "dtd", 0, 0.7)
    result(run, "pets", 0, 0.9)
    result(other, "dtd", 0, 0.6)
    _, body = tables.rows([collect(run), collect(other)], "exact")
    assert body[1][1:3] == ["60.0", tables.MISSING]
    assert "other: no results for pets (exact)." in text_table([run, other])
    rows = list(csv.DictReader(io.StringIO(results_csv([collect(run), collect(other)]))))
    assert [(row["run"], row["dataset"]) for row in rows] == [("one", "dtd"), ("one", "pets"), ("other", "dtd")]


def test_datasets_and_seeds_in_the_config_are_shown_as_missing(run: RunDir) -> None:
    result(run, "dtd", 0, 0.7)
    run.config.write_text("extract: {datasets: [dtd, pets]}\nprobe: {seeds: 3, kinds: [exact, exact-5shot]}\n")
    head, body = tables.rows([collect(run)], "exact")
    assert (head[1:3], body[0][1:3]) == (["dtd", "pets"], ["70.0", tables.MISSING])
    text = text_table([run])
    assert "one: no results for pets (exact), dtd (exact-5shot), pets (exact-5shot)." in text
    assert "one: dtd (exact) has 1 of 3 seeds." in text
    assert "dtd" in write_report([run], run.report).read_text()


def test_results_from_several_encoders_are_noted_as_not_comparable(run: RunDir) -> None:
    result(run, "dtd", 0, 0.7)
    assert "encoders" not in text_table([run])
    result(run, "pets", 0, 0.7, provenance=made_by("other", "epoch-0002"))
    note = "one: its results come from 2 different encoders and are not comparable with each other."
    assert note in text_table([run])


def test_report_of_in1k_alone_has_no_mean(run: RunDir) -> None:
    result(run, "in1k", 0, 0.7)
    page = write_report([run], run.report).read_text()
    assert "Results of the exact probe on in1k only, which the mean does not include." in page
    assert "70.0" in text_table([run])


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", '{"test": {"top1": 0.5}}', '{"test": {"top1": NaN}}', "\x00\xff",
        json.dumps({"dataset": "pets", "probe": "exact", "test": {"top1": 7}}),
    ],
)  # fmt: skip
def test_unreadable_result_is_named_and_left_out(run: RunDir, content: str) -> None:
    result(run, "dtd", 0, 0.7)
    path = run.root / "probes" / "dtd" / "exact" / "seed_1.json"
    path.write_text(content, encoding="latin-1")
    assert f"one: left out: {path}" in text_table([run])
    assert collect(run).cells["exact", "dtd"].main == [0.7]


def test_result_in_the_folder_of_another_dataset_is_left_out(run: RunDir) -> None:
    result(run, "dtd", 0, 0.7)
    moved = run.root / "probes" / "pets" / "exact" / "seed_0.json"
    moved.parent.mkdir(parents=True)
    moved.write_bytes((run.root / "probes" / "dtd" / "exact" / "seed_0.json").read_bytes())
    assert ("exact", "pets") not in collect(run).cells
    assert "probes/pets/exact/seed_0.json: is the result of dtd, exact, seed 0" in text_table([run])


def test_results_on_a_subset_are_marked_in_every_table(run: RunDir) -> None:
    result(run, "dtd", 0, 0.7, comparable=False)
    write_report([run], run.report)
    for name in ("table.md", "table.tex", "index.html"):
        assert "not comparable with published numbers" in (run.report / name).read_text()
    assert "70.0*" in (run.report / "index.html").read_text()


class Page(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_page_is_self_contained_and_escapes_hostile_text(run: RunDir) -> None:
    attack = "<script>alert(1)</script><img src=https://evil.example/x onerror=alert(1)>"
    result(run, "dtd", 0, 0.7, classes=(attack, "dog"), provenance=made_by(attack, attack))
    run.config.write_text(f"name: {attack}\n")
    page = write_report([run], run.report).read_text()
    parser = Page()
    parser.feed(page)
    assert not {"script", "img", "link", "iframe", "object"} & {tag for tag, _ in parser.tags}
    for _, attributes in parser.tags:
        assert not any(name in ("src", "href") or name.startswith("on") for name in attributes)
    assert "url(" not in page
    assert not re.search(r"@import", page)


def test_page_forbids_scripts_and_loads_whatever_its_text_is(run: RunDir) -> None:
    """So that text which escapes the escaping does nothing. The policy comes first, as it governs what follows it."""
    result(run, "dtd", 0, 0.7)
    parser = Page()
    parser.feed(write_report([run], run.report).read_text())
    tags = parser.tags[[tag for tag, _ in parser.tags].index("head") + 1 :]
    assert tags[0] == ("meta", {"charset": "utf-8"})
    assert tags[1][1] == {
        "http-equiv": "Content-Security-Policy", "content": "default-src 'none'; style-src 'unsafe-inline'",
    }  # fmt: skip
    assert [attributes.get("http-equiv") for _, attributes in tags].count("Content-Security-Policy") == 1


def test_preprocessing_is_stated_and_a_mixture_is_marked(run: RunDir) -> None:
    first, other = "published: resize 224 bicubic, resnet50", "model: resize 256 bilinear, resnet50"
    result(run, "dtd", 0, 0.7, provenance=made_by(transform=first))
    stated = f"{run.name}: images: {first}."
    assert stated in tables.notes([collect(run)])
    assert stated in page([collect(run)])
    assert not any("preprocessings" in note for note in tables.notes([collect(run)]))
    result(run, "pets", 0, 0.7, provenance=made_by(transform=other))
    assert f"{run.name}: images: {other}." in tables.notes([collect(run)])
    assert any("2 different preprocessings" in note for note in tables.notes([collect(run)]))
    rows = list(csv.DictReader(io.StringIO(results_csv([collect(run)]))))
    assert [row["preprocessing"] for row in rows] == [first, other]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx"])
def test_text_in_csv_is_never_a_formula(run: RunDir, text: str) -> None:
    result(run, "dtd", 0, 0.7, provenance=made_by(text))
    row = next(csv.DictReader(io.StringIO(results_csv([collect(run)]))))
    assert row["encoder"] == f"'{text}"


def test_kind_without_randomness_is_complete_with_one_seed(run: RunDir) -> None:
    run.config.write_text("extract: {datasets: [dtd]}\nprobe: {seeds: 3, kinds: [exact, knn20]}\n")
    result(run, "dtd", 0, 0.7)
    folder = run.probe("dtd", "knn20", 0).parent
    folder.mkdir(parents=True)
    written = ProbeResult.read(run.probe("dtd", "exact", 0))
    replace(written, probe="knn20").write(folder / "seed_0.json")
    text = text_table([run])
    assert "dtd (exact) has 1 of 3 seeds" in text
    assert "dtd (knn20) has" not in text


def test_report_of_a_run_without_results_says_so(run: RunDir) -> None:
    assert "no probe results yet" in text_table([run])
    assert "no probe results yet" in write_report([run], run.report).read_text()


def test_result_with_other_classes_than_the_other_seeds_is_left_out(run: RunDir) -> None:
    result(run, "dtd", 0, 0.7)
    result(run, "dtd", 1, 0.8, classes=("cat", "cow"))
    assert f"one: left out: {run.probe('dtd', 'exact', 1)}: has other classes than seed 0" in text_table([run])
    assert collect(run).cells["exact", "dtd"].main == [0.7]


def test_damaged_result_is_listed_with_line_and_reason(run: RunDir) -> None:
    result(run, "dtd", 0, 0.7)
    path = run.probe("dtd", "exact", 0)
    path.write_text(path.read_text().replace('"test": 50', '"test": "many"'))
    where = next(i for i, line in enumerate(path.read_text().splitlines(), 1) if '"counts"' in line)
    text = text_table([run])
    assert f"one: left out: {path}:{where}: counts.test: found 'many', expected a whole number" in text


def test_result_of_an_older_format_is_named_with_what_to_do(run: RunDir) -> None:
    result(run, "dtd", 0, 0.7)
    path = run.probe("dtd", "exact", 0)
    path.write_text(path.read_text().replace('"format": 4', '"format": 3'))
    text = text_table([run])
    assert f"one: left out: {path}:2: format: found 3, expected 4" in text
    assert "one: `trex probe` computes results again that are damaged or of another version." in text


def test_run_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: this run does not exist"):
        write_report([RunDir(tmp_path / "nowhere")], tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_markdown_and_latex_escape_names(run: RunDir) -> None:
    result(run, "cog_l1", 0, 0.7)
    result(run, "cog_l1", 1, 0.8)
    data = [collect(run)]
    assert r"cog\_l1" in tables.latex(data)
    assert r"75.0" in tables.latex(data)
    assert "| one | 75.0 |" in tables.markdown(data)


def test_latex_escapes_every_special_character(tmp_path: Path) -> None:
    run = RunDir(tmp_path / r"a&b%c$d#e_f{g}h~i^j\k<l>m|n")
    result(run, "dtd", 0, 0.7)
    shown = (
        r"a\&b\%c\$d\#e\_f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k\textless{}l\textgreater{}m"
        r"\textbar{}n & 70.0 & "
    )
    assert shown in tables.latex([collect(run)])


def three_classes(run: RunDir) -> None:
    """Two seeds: 3 of 4 and 4 of 4 cats are classified correctly, 1 of 2 dogs, and there are no birds."""
    for seed, (cat, confusion) in enumerate([(0.75, ((0, 0, 3), (0, 2, 1))), (1.0, ((0, 0, 4),))]):
        test = Scores(0.8, None, (cat + 0.5) / 2, 0.5, 0.1, 1, (cat, 0.5, None), (*confusion, (1, 0, 1), (1, 1, 1)))
        result(run, "pets", seed, 0.8, classes=("=cat", "dog", "bird"), test=test)


def test_class_table_shows_accuracies_and_confused_classes(run: RunDir, tmp_path: Path) -> None:
    three_classes(run)
    lines = class_tables([run], "pets", tmp_path / "out").splitlines()
    assert lines[0] == "one: pets, exact: mean per-class accuracy 68.8 % over 2 classes"
    assert [re.split(r"  +", line) for line in lines[3:]] == [
        ["dog", "2", "50.0", "=cat 50 %"],
        ["=cat", "4", "87.5", "bird 12 %"],
    ]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "confusion_pets.csv").read_text())))
    assert sum(int(row["images"]) for row in rows) == 12
    assert rows[0]["class"] == "'=cat", "a spreadsheet must not evaluate it"


def test_class_table_without_results_is_an_error_that_names_datasets_with_results(run: RunDir, tmp_path: Path) -> None:
    three_classes(run)
    with pytest.raises(UserError, match=r"no probe results for 'dtd'\. Datasets with results: pets"):
        class_tables([run], "dtd", tmp_path)


def test_transfer_against_epoch_ends_with_the_final_result_and_is_in_page_table_and_csv(run: RunDir) -> None:
    for epoch, top1 in ((10, 0.5), (5, 0.25)):
        for seed in (0, 1):
            result(run.at(epoch), "pets", seed, top1 + 0.02 * seed)
    result(run.at(10), "dtd", 0, 0.125)
    result(run, "pets", 0, 0.75, provenance=made_by(weights="epoch-0020-step-00000000, SHA-256 0123456789abcdef"))
    result(run, "dtd", 0, 0.75, provenance=made_by(weights="resnet50.pth, SHA-256 0123456789abcdef"))
    bad = run.at(5).probe("dtd", "exact", 0)
    bad.parent.mkdir(parents=True)
    bad.write_text("{")
    text = text_table([run])
    table = text.partition("transfer against epoch, probe: exact\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split() for line in table if not line.startswith("-")] == [
        ["run", "epoch", "dtd", "pets"],
        ["one", "5", "–", "26.0"],
        ["one", "10", "12.5", "51.0"],
        ["one", "20", "–", "75.0"],
        ["Top-1", "accuracy", "on", "the", "test", "images", "in", "%,", "mean", "over", "the", "seeds."],
    ]
    assert str(bad) in text, "the damaged result is listed"
    write_report([run], run.report)
    page = (run.report / "index.html").read_text()
    assert "Transfer against epoch" in page
    assert "one: 20, 75" in page, "the last point of the chart"
    assert "| one | 20 | – | 75.0 |" in (run.report / "table.md").read_text()
    rows = list(csv.DictReader(io.StringIO((run.report / "milestones.csv").read_text())))
    assert [(row["epoch"], row["dataset"], row["seed"]) for row in rows] == [
        ("5", "pets", "0"), ("5", "pets", "1"), ("10", "dtd", "0"), ("10", "pets", "0"), ("10", "pets", "1"),
    ]  # fmt: skip


def test_milestones_with_fewer_seeds_than_the_config_asks_for_are_noted(run: RunDir) -> None:
    run.config.write_text("extract: {datasets: [pets]}\nprobe: {seeds: 2}\n")
    for epoch, seeds in ((5, 2), (10, 1)):
        for seed in range(seeds):
            result(run.at(epoch), "pets", seed, 0.5)
    write_report([run], run.report)
    for text in (text_table([run]), (run.report / "index.html").read_text(), (run.report / "table.md").read_text()):
        assert "one: pets (exact) after epoch 10 has 1 of 2 seeds." in text
        assert "after epoch 5 has" not in text


def test_report_of_runs_without_milestones_says_nothing_about_them(run: RunDir) -> None:
    result(run, "pets", 0, 0.75)
    write_report([run], run.report)
    assert "against epoch" not in text_table([run]) + (run.report / "index.html").read_text()
    assert not (run.report / "milestones.csv").exists()


def test_table_marks_choices_at_an_end_of_the_range_and_classes_without_training_images(run: RunDir) -> None:
    result(run, "dtd", 0, 0.7)
    assert "‡" not in text_table([run])
    low = Search({"C": 0.1}, 0.6, "low", (Trial({"C": 0.1}, 0.6, 0.1), Trial({"C": 1.0}, 0.5, 0.1)))
    result(run, "dtd", 1, 0.7, search=low, counts=ImageCounts(8, 2, 50, classes_without_training_images=1))
    text = text_table([run])
    assert "70.0‡" in text
    assert "‡ one: dtd (exact): chosen value at an end of the range: seed 1: low." in text
    assert "one: dtd (exact): 1 of its classes have no training images." in text
    assert "‡" in tables.latex([collect(run)])
