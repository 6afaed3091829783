"""Paths in settings: `~` and variables are replaced once, and what cannot be replaced is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.backend import read_cluster
from trex.config import Config, ConfigError, load, to_yaml
from trex.config.paths import expanded
from trex.records.run_dir import RunDir

#: The settings that are paths.
PATHS = (
    "runs", "data.root", "data.folders.mine", "train.start", "train.key_map", "extract.weights", "extract.key_map",
)  # fmt: skip


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("BROKEN", "a\nb")
    monkeypatch.delenv("NOWHERE", raising=False)


def value_of(config: object, dotted: str) -> object:
    for key in dotted.split("."):
        config = config[key] if isinstance(config, dict) else getattr(config, key)
    return config


@pytest.mark.parametrize("key", PATHS)
def test_every_setting_that_is_a_path_is_expanded(key: str, tmp_path: Path) -> None:
    needed = ["train.start_with=encoder", *(["extract.weights=w.pth"] if key == "extract.key_map" else [])]
    needed += ["train.start=w.pth"] if key == "train.key_map" else []
    config = load(None, Config, [*needed, f"{key}=$SCRATCH/x"])
    assert value_of(config, key) == "/scratch/me/x"
    (tmp_path / "saved.yaml").write_text(to_yaml(config))
    assert load(tmp_path / "saved.yaml", Config) == config
    with pytest.raises(ConfigError, match=rf"'{key}' is '\$NOWHERE/x', but NOWHERE is not set"):
        load(None, Config, [*needed, f"{key}=$NOWHERE/x"])


def test_folder_of_datasets_in_a_cluster_file_is_expanded(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data_root: ${SCRATCH}/datasets\n")
    assert read_cluster(tmp_path / "mine.yaml").data_root == "/scratch/me/datasets"
    (tmp_path / "mine.yaml").write_text("kind: local\ndata_root: $NOWHERE\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml:2:12: 'data_root' is '\$NOWHERE', but NOWHERE is not set"):
        read_cluster(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("~", "/home/me"),
        ("~/runs", "/home/me/runs"),
        ("$HOME/runs", "/home/me/runs"),
        ("${SCRATCH}/a/${SCRATCH}", "/scratch/me/a//scratch/me"),
        ("a~b/c", "a~b/c"),
        ("./~x", "./~x"),
        ("plain/päth", "plain/päth"),
        ("~root", "/root"),
    ],
)
def test_path_is_expanded_as_in_a_shell(text: str, path: str) -> None:
    assert expanded(text) == path


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("$NOWHERE", "NOWHERE is not set"),
        ("${NOWHERE}/x", "NOWHERE is not set"),
        ("$EMPTY/x", "EMPTY is not set"),
        ("$SCRATCHED/x", "SCRATCHED is not set"),
        ("~nobody_here/x", "no such home folder"),
        ("a$", "a \\$ names no variable"),
        ("$(pwd)/x", "a \\$ names no variable"),
        ("${SCRATCH/x", "a \\$ names no variable"),
        ("${}/x", "a \\$ names no variable"),
        ("$BROKEN/x", "line break"),
    ],
)
def test_what_cannot_be_expanded_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        expanded(text)


def test_run_folder_is_the_expanded_one() -> None:
    assert RunDir.of(load(None, Config, ["runs=$SCRATCH/runs", "name=a"])).root == Path("/scratch/me/runs/a")
