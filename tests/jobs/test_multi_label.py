"""Datasets whose images have several classes: refused or left out before anything is queued."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.cli import main
from jobs.plan.spec import Item
from jobs.plan.stages import items, results_of
from tests.datasets.trees import make
from trex.config import Config, load

EVALUATED = ("extract.weights=pixels", "extract.resize=8", "extract.crop=8")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the dataset and an empty recipe, without Slurm on PATH."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "no_slurm"))
    make("voc2007", tmp_path / "data")
    (tmp_path / "recipe.yaml").write_text(
        "data: {subsets: [voc2007]}\nextract: {datasets: [voc2007, digits_seen]}\nprobe: {seeds: 2}\n"
    )
    return tmp_path


def called(command: str, *settings: str) -> int:
    return main([command, "recipe.yaml", *settings, "--cluster", "local", *(["--dry-run"] * (command != "check"))])


@pytest.mark.parametrize("command", ["train", "run", "check"])
def test_training_on_it_is_refused_before_anything_starts(
    home: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert called(command, "data.dataset=voc2007") == 2
    shown = capsys.readouterr()
    assert "data.dataset is voc2007: its images may have several classes, and training needs one" in "".join(shown)
    assert not (home / "runs").exists()


@pytest.mark.parametrize("command", ["probe", "run", "check"])
def test_config_without_a_kind_for_it_is_refused_and_the_kind_is_named(
    home: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert called(command, *EVALUATED, "probe.kinds=[knn20, exact-5shot]") == 2
    shown = "".join(capsys.readouterr())
    assert "probe.kinds: voc2007: an image may have several classes, and only the kind exact" in shown
    assert "not knn20, exact-5shot; add exact to probe.kinds, or leave voc2007 out of extract.datasets" in shown
    assert not (home / "runs").exists()


def test_check_names_both_problems(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert called("check", "data.dataset=voc2007", "probe.kinds=[knn20]") == 2
    shown = capsys.readouterr().out
    assert "training needs one" in shown
    assert "add exact to probe.kinds" in shown
    assert "2 problems to fix" in shown


@pytest.mark.parametrize("command", ["probe", "run", "check"])
def test_kinds_that_are_left_out_are_named(home: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert called(command, *EVALUATED, "probe.kinds=[exact, knn20]") == 0
    shown = "".join(capsys.readouterr())
    assert "voc2007: an image may have several classes, and only the kind exact can be fitted on such a" in shown
    assert "digits_seen: an image" not in shown


def test_extraction_alone_needs_no_kind(home: Path) -> None:
    assert called("extract", *EVALUATED, "probe.kinds=[knn20]") == 0


def test_other_datasets_have_all_kinds_and_their_own_jobs() -> None:
    settings = ["extract.datasets=[voc2007, dtd]", "probe.kinds=[published, exact]", "probe.seeds=2"]
    config = load(None, Config, settings)
    assert items("probe", config) == (Item("voc2007"), Item("dtd", (0,)), Item("dtd", (1,)))
    assert results_of(config, Item("voc2007")) == [("exact", 0), ("exact", 1)]
    assert results_of(config, Item("dtd", (0,))) == [("published", 0), ("exact", 0)]
