"""A part of any registered dataset can be used if `data.subsets` names it, and is refused otherwise."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from jobs.cli import main
from tests.datasets.trees import TREES, make
from trex.config.schema import DataConfig
from trex.datasets.registry import known, load_splits
from trex.errors import UserError


def test_every_dataset_with_files_has_a_small_tree() -> None:
    assert set(TREES) == {name for name, dataset in known().items() if dataset.needs_files}


@pytest.mark.parametrize("name", TREES)
def test_part_of_a_dataset_is_refused_unless_it_is_a_declared_subset(tmp_path: Path, name: str) -> None:
    make(name, tmp_path)
    with pytest.raises(UserError, match=rf"found [\s\S]*data\.subsets=\[{name}\]"):
        load_splits(name, DataConfig(root=str(tmp_path)))
    splits = load_splits(name, DataConfig(root=str(tmp_path), subsets=(name,)))
    for split in splits.values():
        assert len(split) >= 2
        assert not split.comparable
        size = (32, 48) if split.images is None else (32, 32)
        assert all(split.read(index).shape == (*size, 3) for index in range(len(split)))


@pytest.mark.parametrize("name", [name for name in TREES if not name.startswith("cifar")])  # one file per image
@pytest.mark.parametrize("which", [0, -1])
def test_any_image_of_a_subset_may_be_missing(tmp_path: Path, name: str, which: int) -> None:
    make(name, tmp_path)
    data = DataConfig(root=str(tmp_path), subsets=(name,))
    before = load_splits(name, data)["trainval"]
    gone = before.name(range(len(before))[which])
    assert before.folder is not None
    (before.folder / gone).unlink()
    after = load_splits(name, data)["trainval"]
    kept = [before.name(i) for i in range(len(before)) if before.name(i) != gone]
    found = [after.name(i) for i in range(len(after))]
    if name == "caltech101":  # 30 images per category, of those that are there
        assert set(kept) < set(found)
    else:
        assert found == kept


@pytest.mark.parametrize("name", ["sun397", "eurosat", "pets", "in1k", "inat2018", "cog_l3"])
def test_check_accepts_the_counts_of_a_declared_subset_and_still_finds_broken_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    make(name, tmp_path)
    words = ["data", "check", name, f"data.root={tmp_path}", "--processes", "1"]
    assert main(words) == 2
    assert "counts: WRONG: found" in capsys.readouterr().out
    assert main([*words, f"data.subsets=[{name}]"]) == 0
    assert "counts: subset (data.subsets names it)" in capsys.readouterr().out
    split = load_splits(name, DataConfig(root=str(tmp_path), subsets=(name,)))["test"]
    assert split.folder is not None
    (split.folder / split.name(0)).write_bytes(b"")
    assert main([*words, f"data.subsets=[{name}]"]) == 2
    assert "unreadable images: 1" in capsys.readouterr().out


def test_subset_without_any_test_image_is_an_error_that_says_so(tmp_path: Path) -> None:
    base = make("aircraft", tmp_path)
    (base / "images/3.jpg").unlink()
    (base / "images/4.jpg").unlink()
    with pytest.raises(UserError, match=r"no test image was found.*images/3\.jpg"):
        load_splits("aircraft", DataConfig(root=str(tmp_path), subsets=("aircraft",)))


def test_images_of_a_part_of_eurosat_are_in_the_same_split_as_in_the_whole(tmp_path: Path) -> None:
    make("eurosat", tmp_path)
    splits = load_splits("eurosat", DataConfig(root=str(tmp_path), subsets=("eurosat",)))
    assert splits["test"].classes == ("Forest", "River")
    official = set()
    for name, count in (("Forest", 3000), ("River", 2500)):
        stems = [f"{name}_{i}" for i in range(1, count + 1)]
        by_digest = sorted(stems, key=lambda stem: hashlib.sha256(stem.encode()).digest())
        official |= {f"{name}/{stem}.jpg" for stem in by_digest[:810]}
    here = {f"{name}/{name}_{i}.jpg" for name in ("Forest", "River") for i in range(1, 11)}
    assert {splits["test"].name(i) for i in range(len(splits["test"]))} == here & official
