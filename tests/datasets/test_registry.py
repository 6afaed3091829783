"""Datasets by name: which datasets are found, and the error message for a dataset that is not."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trex.config.schema import DataConfig
from trex.datasets.registry import load_split, load_splits
from trex.errors import UserError


def tree(folder: Path, layout: dict[str, int]) -> DataConfig:
    """Write the dataset `mine`: `layout` gives the number of images of each class folder `split/class`."""
    for class_folder, count in layout.items():
        (folder / "mine" / class_folder).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (4, 4), (i, 0, 0)).save(folder / "mine" / class_folder / f"{i}.png")
    return DataConfig(root=str(folder))


def test_image_folder_needs_no_code(tmp_path: Path) -> None:
    data = tree(tmp_path, {"train/b": 2, "train/a": 3, "val/a": 1, "val/b": 1})
    (tmp_path / "mine/train/a/.DS_Store").write_bytes(b"x")
    (tmp_path / "mine/train/a/notes.txt").write_bytes(b"x")
    split = load_split("mine", "trainval", data)
    assert split.classes == ("a", "b")
    assert split.labels.tolist() == [0, 0, 0, 1, 1]
    assert [split.name(i) for i in (0, 4)] == ["train/a/0.png", "train/b/1.png"]
    assert split.read(2)[0, 0].tolist() == [2, 0, 0]


def test_folders_of_the_splits_may_be_called_trainval_and_test(tmp_path: Path) -> None:
    assert len(load_split("mine", "test", tree(tmp_path, {"trainval/a": 3, "test/a": 2}))) == 2


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"val/a": 1}, r"expected a folder train/ or trainval/"),
        ({"train/a": 1, "val/b": 1}, r"only in one of them: a, b"),
        ({"train/a": 1, "train/b": 0, "val/a": 1, "val/b": 1}, r"train/b: this class folder has no images"),
        ({"train/a": 1, "val": 3}, r"validation archive is flat"),
    ],
)
def test_wrong_layout_is_an_error_that_says_what_was_expected(
    tmp_path: Path, layout: dict[str, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_split("mine", "trainval", tree(tmp_path, layout))


def test_error_for_an_unknown_name_suggests_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"did you mean 'digits'\?"):
        load_split("digit", "test", DataConfig(root=str(tmp_path)))


def test_error_for_a_missing_folder_says_where_it_was_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{tmp_path}/in1k.*data.folders.in1k"):
        load_split("in1k", "test", DataConfig(root=str(tmp_path)))


def test_wrong_counts_are_refused_unless_the_dataset_is_declared_a_subset(tmp_path: Path) -> None:
    tree(tmp_path, {"train/a": 2, "val/a": 1})
    (tmp_path / "mine").rename(tmp_path / "in1k")
    with pytest.raises(UserError, match=r"found 1 classes, 2 trainval and 1 test images; expected 1000, 1281167"):
        load_split("in1k", "test", DataConfig(root=str(tmp_path)))
    assert not load_split("in1k", "test", DataConfig(root=str(tmp_path), subsets=("in1k",))).comparable


def test_splits_of_the_digits_are_disjoint_and_complete() -> None:
    splits = load_splits("digits", DataConfig())
    names = [{split.name(i) for i in range(len(split))} for split in splits.values()]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 1797
    seen, unseen = (load_split(name, "test", DataConfig()) for name in ("digits_seen", "digits_unseen"))
    assert seen.classes + unseen.classes == splits["test"].classes
    assert len(seen) + len(unseen) == len(splits["test"])
    assert splits["test"].read(0).shape == (8, 8, 3)
    assert np.ptp(splits["test"].read(0)) > 200


def test_digest_differs_if_names_or_labels_or_split_differ(tmp_path: Path) -> None:
    data = tree(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1})
    before = load_split("mine", "trainval", data).digest
    assert before == load_split("mine", "trainval", data).digest
    assert before != load_split("mine", "test", data).digest
    (tmp_path / "mine/train/a/0.png").rename(tmp_path / "mine/train/b/7.png")
    assert before != load_split("mine", "trainval", data).digest


def test_pickled_split_has_the_same_digest() -> None:
    split = load_split("digits", "trainval", DataConfig())
    assert pickle.loads(pickle.dumps(split)).digest == split.digest


def test_reading_the_records_imports_nothing_heavy() -> None:
    """Submitting jobs reads the records."""
    heavy = {"torch", "torchvision", "numpy", "h5py", "scipy", "sklearn", "PIL"}
    code = (
        "import sys; from trex.config.schema import DataConfig; from trex.datasets import registry; registry.known(); "
        "registry.folder_of('torchvision:CIFAR10', DataConfig()); registry.find('torchvision:CIFAR10', DataConfig()); "
        f"print({heavy} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"
