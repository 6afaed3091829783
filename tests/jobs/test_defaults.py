"""What a user sets once for all recipes, and runs that are found by name wherever they were started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.plan import defaults as module
from jobs.plan.known_runs import remembered
from jobs.plan.runs import open_config, open_run, save_config, word_for
from tests.jobs.conftest import FakeSlurm, note_submission, queued
from trex.errors import UserError
from trex.records.run_dir import RunDir


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's config folder, which is also the working folder, and no defaults of the site."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(module, "SITE", tmp_path / "site.yaml")
    (tmp_path / "trex").mkdir()
    Path("recipe.yaml").write_text("name: mine\n")
    return tmp_path


def set_defaults(home: Path, text: str) -> None:
    (home / "trex" / "config.yaml").write_text(text)


def started(*overrides: str) -> RunDir:
    run, config = open_config("recipe.yaml", overrides)
    save_config(run, config)
    return run


def test_runs_go_to_the_default_folder_and_are_found_by_name_from_anywhere(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCRATCH", str(home / "scratch"))
    set_defaults(home, "runs: $SCRATCH/runs\n")
    run = started()
    assert run.root == home / "scratch" / "runs" / "mine"
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    assert open_run("mine")[0].root == run.root
    assert main(["status"]) == 0
    assert "mine\n" in capsys.readouterr().out
    assert word_for(run) == "mine"


def test_recipe_and_command_come_before_the_default_folder(home: Path) -> None:
    set_defaults(home, "runs: /scratch/runs\n")
    assert started("runs=here").root == home / "here" / "mine"
    Path("recipe.yaml").write_text("name: mine\nruns: there\n")
    assert open_config("recipe.yaml")[0].root == home / "there" / "mine"


def test_run_that_was_started_in_any_other_folder_is_found_by_name_and_shown_where_no_others_are(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = started(f"runs={home}/scratch")
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    assert open_run("mine")[0].root == run.root
    assert main(["status"]) == 0
    said = capsys.readouterr()
    assert ("mine\n" in said.out, "started in other folders" in said.err) == (True, True)
    run.config.unlink()
    assert remembered() == []


def test_name_that_several_runs_have_is_refused_with_their_folders(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [started(f"runs={home}/{folder}") for folder in ("one", "two")]
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    with pytest.raises(UserError, match="expected one run of that name, found 2") as refused:
        open_run("mine")
    assert all(str(run.root) in str(refused.value) for run in runs)
    assert word_for(runs[0]) == str(runs[0].root)


def test_list_of_runs_that_cannot_be_written_costs_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/no/such/place")
    assert started().config.exists()


def test_default_cluster_account_and_data_are_used_where_nothing_else_names_them(
    home: Path, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    Path("configs/clusters").mkdir(parents=True)
    Path("configs/clusters/mine.yaml").write_text("train: {partition: big}\n")
    set_defaults(home, "cluster: mine\naccount: project\ndata_root: /images\n")
    assert main(["train", "recipe.yaml", "--dry-run"]) == 0
    script, said = capsys.readouterr()
    assert "no --cluster given: using mine, the default in config.yaml" in said
    assert "#SBATCH --partition=big\n" in script
    assert "#SBATCH --account=project\n" in script
    monkeypatch.setenv("SBATCH_ACCOUNT", "theirs")
    assert main(["train", "recipe.yaml", "--dry-run"]) == 0
    assert "#SBATCH --account=theirs\n" in capsys.readouterr().out
    assert main(["data", "list"]) == 0
    assert "/images" in capsys.readouterr().out


def test_defaults_of_the_user_come_before_those_of_the_site(home: Path) -> None:
    (home / "site.yaml").write_text("runs: /site/runs\naccount: ours\n")
    set_defaults(home, "runs: /my/runs\n")
    found = module.defaults()
    assert (found.runs, found.account, found.cluster) == ("/my/runs", "ours", None)


def test_mistake_in_the_defaults_is_told_with_its_place(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_defaults(home, "runs: /a\nacount: b\n")
    assert main(["train", "recipe.yaml", "--cluster", "local", "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert f"{home}/trex/config.yaml:2:1: unknown key 'acount'" in said
    assert "'account'" in said


def test_file_of_defaults_is_no_recipe(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_defaults(home, "runs: /a\n")
    assert main(["train", "nothing"]) == 2
    (recipes,) = [line for line in capsys.readouterr().err.splitlines() if "recipes:" in line]
    assert " config," not in recipes


def test_status_of_a_run_elsewhere_names_the_jobs(
    home: Path, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    run = started(f"runs={home}/scratch")
    note_submission(run, "a", train="7")
    fake_slurm.says("squeue", queued("7", "RUNNING", "a"))
    fake_slurm.says("sacct")
    os.chdir("/")
    assert main(["status", "mine"]) == 0
    assert "job 7, on n1" in capsys.readouterr().out
