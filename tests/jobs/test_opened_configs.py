"""From what a person names to a run and its config: folders, overrides, weights files; and what each job is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.cli import main
from jobs.plan.runs import open_config, open_run, save_config
from jobs.plan.spec import Item, TaskSpec
from jobs.plan.stages import items
from trex.config import Config, load
from trex.errors import ResumeRefused, UserError
from trex.files import write_text


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", "")
    write_text(tmp_path / "recipe.yaml", "name: mine\n")
    write_text(tmp_path / "runs/old/config.yaml", "name: old\ntrain: {epochs: 20}\n")
    return tmp_path


def test_run_of_a_recipe_is_in_the_folder_that_it_names(home: Path) -> None:
    assert open_config("recipe.yaml")[0].root == home / "runs/mine"
    assert open_config("recipe.yaml", ["name=other", "runs=~/all"])[0].root == home / "home/all/other"


def test_run_folder_that_was_moved_or_renamed_is_the_run(home: Path) -> None:
    (home / "runs/old").rename(home / "archived")
    run, config = open_run("archived")
    assert (run.root, config.name, config.train.epochs) == (home / "archived", "old", 20)
    assert open_config("./archived/../archived/")[0].root == home / "archived"


def test_weights_files_are_named_by_absolute_paths(home: Path) -> None:
    settings = ["extract.weights=~/w.pth", "train.start=zoo/x.pth"]
    settings += ["extract.key_map=~/map.yaml", "train.key_map=zoo/map.json"]
    _, config = open_config("recipe.yaml", settings)
    assert (config.extract.weights, config.train.start) == (f"{home}/home/w.pth", f"{home}/zoo/x.pth")
    assert (config.extract.key_map, config.train.key_map) == (f"{home}/home/map.yaml", f"{home}/zoo/map.json")
    for word in ("trained", "untrained", "pixels"):
        assert open_config("recipe.yaml", [f"extract.weights={word}"])[1].extract.weights == word


def test_config_is_saved_once_and_again_only_for_the_same_run(home: Path) -> None:
    run, config = open_config("recipe.yaml")
    save_config(run, config)
    save_config(run, open_config("recipe.yaml", ["train.log_every=7"])[1])
    assert load(run.config, Config).train.log_every == 7
    before = run.config.read_bytes()
    with pytest.raises(ResumeRefused, match=r"train\.seed[\s\S]*name=mine_2"):
        save_config(run, open_config("recipe.yaml", ["train.seed=7"])[1])
    assert run.config.read_bytes() == before


def test_twenty_runs_are_listed_where_none_of_that_name_is_found(home: Path) -> None:
    for number in range(25):
        write_text(home / f"runs/trial{number:02d}/config.yaml", "")
    with pytest.raises(UserError) as caught:
        open_config("nothing-like-it")
    listed = str(caught.value).splitlines()[-1]
    assert ["trial18" in listed, "trial19" in listed, "trex status" in listed] == [True, False, True]


@pytest.mark.parametrize("words", [["extract", "recipe.yaml"], ["run", "recipe.yaml"]])
def test_weights_file_that_is_not_there_is_found_before_anything_is_made(
    home: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "extract.weights=gone.pth", "--cluster", "local"]) == 2
    assert f"{home}/gone.pth" in capsys.readouterr().err
    assert not (home / "runs/mine").exists()


@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        ("extract", ["extract.weights=w.pth", "extract.key_map=gone.yaml"]),
        ("train", ["train.start=w.pth", "train.key_map=gone.yaml"]),
    ],
)
def test_mapping_file_that_is_not_there_is_found_before_anything_is_made(
    home: Path, stage: str, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(home / "w.pth", "")
    assert main([stage, "recipe.yaml", *settings, "--cluster", "local"]) == 2
    assert f"{stage}.key_map: no such file: {home}/gone.yaml" in capsys.readouterr().err
    assert not (home / "runs/mine").exists()


def test_weights_file_is_not_missed_by_a_stage_that_does_not_read_it(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = ("extract.weights=gone.pth", "train.start=gone.pth", "--cluster", "local", "--dry-run")
    assert main(["probe", "recipe.yaml", *gone, "extract.datasets=[digits]"]) == 0
    write_text(home / "runs/mine/checkpoints/epoch-0001-step-00000000/manifest.json", "{}")
    assert main(["train", "recipe.yaml", *gone]) == 0, "a started training does not read its file again"
    assert "train" in capsys.readouterr().out


# ---- what each job is told


@pytest.mark.parametrize(
    ("item", "name"),
    [
        (Item("dtd"), "dtd"),
        (Item("dtd", (3,)), "dtd-seed3"),
        (Item("dtd", (2, 3, 4)), "dtd-seeds2-4"),
        (Item("torchvision:CIFAR10", (0,)), "torchvision_CIFAR10-seed0"),
    ],
)
def test_key_of_a_job_is_its_stage_dataset_and_seeds(item: Item, name: str) -> None:
    assert TaskSpec("probe", "/run", (item, Item("pets"))).keys == (f"probe-{name}", "probe-pets")
    assert TaskSpec("train", "/run").keys == ("train",)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["probe.seeds=3"], [()]),
        (["probe.seeds=3", "probe.seeds_per_job=1"], [(0,), (1,), (2,)]),
        (["probe.seeds=5", "probe.seeds_per_job=2"], [(0, 1), (2, 3), (4,)]),
        (["probe.seeds=3", "probe.seeds_per_job=9"], [()]),
        (["probe.seeds=2", "probe.kinds=[published]"], [(0,), (1,)]),
        (["probe.seeds=2", "probe.kinds=[exact, published]"], [(0,), (1,)]),
        (["probe.seeds=1", "probe.kinds=[published]"], [()]),
        (["probe.seeds=5", "probe.kinds=[knn10, knn20]", "probe.seeds_per_job=1"], [()]),
        (["probe.seeds=2", "probe.kinds=[exact, knn20]", "probe.seeds_per_job=1"], [(0,), (1,)]),
    ],
)
def test_seeds_are_shared_out_among_the_jobs_of_a_dataset(settings: list[str], expected: list[tuple[int, ...]]) -> None:
    config = load(None, Config, ["extract.datasets=[dtd]", *settings])
    assert [item.seeds for item in items("probe", config)] == expected
