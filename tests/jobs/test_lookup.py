"""Which file the name of a recipe or cluster file means, and the message if there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.plan.cluster import find_cluster
from jobs.plan.runs import open_config, open_run
from trex.config import load
from trex.config.schema import Config
from trex.errors import UserError

TOOLKIT = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and a home folder next to it."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return work


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def epochs(target: str) -> int:
    return open_config(target)[1].train.epochs


def test_recipe_is_searched_as_a_path_then_in_the_working_folder_the_users_and_the_toolkits(folder: Path) -> None:
    assert epochs("trex") == load(TOOLKIT / "trex.yaml", Config).train.epochs
    for count, place in enumerate(("../home/.config/trex/trex.yaml", "configs/trex.yaml", "trex"), start=1):
        write(folder / place, f"train: {{epochs: {count}}}\noptimizer: {{warmup_epochs: 0}}\n")
        assert epochs("trex") == count


def test_cluster_file_is_searched_as_a_path_then_in_the_working_folder_the_users_and_the_toolkits(folder: Path) -> None:
    assert find_cluster("slurm").samefile(TOOLKIT / "clusters" / "slurm.yaml")
    for place in ("../home/.config/trex/clusters/slurm.yaml", "configs/clusters/slurm.yaml", "slurm"):
        write(folder / place, "kind: slurm\n")
        assert find_cluster("slurm").samefile(folder / place)


@pytest.mark.parametrize(("chosen", "counts"), [("settings", True), ("", False)], ids=["absolute", "empty"])
def test_users_config_folder_is_set_by_xdg_config_home(
    folder: Path, monkeypatch: pytest.MonkeyPatch, chosen: str, counts: bool
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / chosen) if chosen else "")
    write(folder / "settings" / "trex" / "clusters" / "mine.yaml", "kind: local\n")
    if counts:
        assert find_cluster("mine") == folder / "settings" / "trex" / "clusters" / "mine.yaml"
    else:
        with pytest.raises(UserError, match="no cluster file 'mine'"):
            find_cluster("mine")


def test_user_without_a_home_folder_can_use_the_toolkits_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert find_cluster("local").samefile(TOOLKIT / "clusters" / "local.yaml")
    assert epochs("trex_star") == 100


def test_missing_recipe_is_an_error_that_lists_recipes_and_runs_and_suggests_the_nearest(folder: Path) -> None:
    write(folder / "configs" / "mine.yaml", "name: mine\n")
    write(folder / "runs" / "earlier" / "config.yaml", "name: earlier\n")
    with pytest.raises(UserError) as caught:
        open_config("earler")
    assert str(caught.value).splitlines() == [
        "earler: expected a config file or a run folder, by path or by name, but found neither; "
        "did you mean 'earlier'?",
        "  recipes: demo, mine, supervised, trex, trex1, trex3, trex_star",
        "  runs: earlier",
    ]
    with pytest.raises(UserError, match="did you mean 'trex_star'"):
        open_config("configs/trex_sta.yaml")


def test_missing_cluster_file_is_an_error_that_lists_all_files_and_says_where_to_add_one(folder: Path) -> None:
    write(folder / "configs" / "clusters" / "mine.yaml", "kind: slurm\n")
    with pytest.raises(UserError) as caught:
        find_cluster("mines")
    assert str(caught.value).splitlines() == [
        "no cluster file 'mines': expected a path, or one of: example, local, mine, sandbox, slurm; "
        "did you mean 'mine'?",
        "To add your own, put mines.yaml into one of these folders: configs/clusters, "
        f"{folder.parent}/home/.config/trex/clusters",
    ]


def test_name_of_both_a_toolkit_recipe_and_a_run_means_the_recipe_and_a_path_means_the_run(folder: Path) -> None:
    """Otherwise the name of a recipe could continue a run that was started with other settings."""
    write(folder / "runs" / "trex" / "config.yaml", "name: trex\ntrain: {epochs: 17}\n")
    assert epochs("trex") == 100
    assert epochs("runs/trex") == 17
    assert open_run("trex")[1].train.epochs == 17


def test_path_of_a_recipe_outside_the_working_folder_is_printed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_config("trex")
    assert capsys.readouterr().err.endswith("/configs/trex.yaml\n")
    write(folder / "configs" / "trex.yaml", "name: trex\n")
    open_config("trex")
    assert capsys.readouterr().err == ""
