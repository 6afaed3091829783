"""What is made of torchvision's classes whose labels, files and splits look different, with small stand-ins of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trex.datasets import torchvision_sets
from trex.datasets.torchvision_sets import TorchvisionImages
from trex.errors import UserError
from trex.images.decode import ImageFault


class Opened:
    """A dataset of torchvision's, as far as it is read: (image, label) by index, and lists under their names."""

    def __init__(self, answers: list[Any], **lists: Any) -> None:
        self.answers = answers
        self.read: list[int] = []  #: which images were opened
        vars(self).update(lists)

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, index: int) -> tuple[None, Any]:
        self.read.append(index)
        return None, self.answers[index]


@pytest.mark.parametrize("attribute", ["targets", "labels", "_labels", "_samples"])
def test_labels_are_taken_from_the_list_of_the_class(attribute: str) -> None:
    entries = [("a.jpg", 2), ("b.jpg", 1), ("c.jpg", 0)] if attribute == "_samples" else [2, 1, 0]
    opened = Opened([2, 1, 0], **{attribute: entries})
    assert torchvision_sets._labels(opened, "torchvision:X") == [2, 1, 0]
    assert set(opened.read) == {0, 2}, "not every image is opened"


@pytest.mark.parametrize("targets", [[1, 2, 0], [2, 1], [], ["two", "zero"], [-1, 0], [[1, 0], [0, 1]]], ids=str)
def test_list_that_does_not_agree_with_the_images_is_not_believed(targets: list[Any]) -> None:
    assert torchvision_sets._labels(Opened([2, 0], targets=targets), "torchvision:X") == [2, 0]


def test_labels_that_are_numbers_of_numpy_are_whole_numbers() -> None:
    found = torchvision_sets._labels(Opened([2, 0], targets=np.array([2, 0])), "torchvision:X")
    assert found == [2, 0]
    assert all(type(label) is int for label in found)


@pytest.mark.parametrize("label", [0.5, "cat", None, -1, [1]], ids=str)
def test_label_that_is_no_class_is_refused_by_name(label: Any) -> None:
    with pytest.raises(UserError, match="torchvision:X"):
        torchvision_sets._labels(Opened([0, label]), "torchvision:X")


def test_absurd_label_is_refused_before_that_many_classes_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_sets, "_opened", lambda *_: Opened([0]))
    with pytest.raises(UserError, match=r"torchvision:X in /data: has a label 1000000000000, expected less"):
        torchvision_sets._classes("torchvision:X", Path("/data"), (("split", "train"),), 10**12)


@pytest.mark.parametrize("attribute", ["samples", "_image_files", "_images", "_samples"])
def test_names_are_the_paths_of_the_files_within_the_folder(attribute: str) -> None:
    paths = ["/data/x/a.jpg", Path("/data/x/b/c.jpg")]
    entries: list[Any] = [(path, 0) for path in paths] if attribute in ("samples", "_samples") else paths
    opened = Opened([0, 1], **{attribute: entries})
    assert torchvision_sets._names(opened, Path("/data/x"), "train") == ["a.jpg", "b/c.jpg"]


@pytest.mark.parametrize("lists", [{}, {"samples": ["a.jpg"]}, {"_images": [np.zeros(2), np.zeros(2)]}], ids=str)
def test_images_that_are_not_files_have_numbers_for_names(lists: dict[str, Any]) -> None:
    assert torchvision_sets._names(Opened([0, 1], **lists), Path("/data"), "val") == ["val/000000", "val/000001"]


@pytest.mark.parametrize(
    ("known", "trainval", "test"),
    [
        ({"train", "test"}, ["train"], "test"),
        ({"train", "val"}, ["train"], "val"),
        ({"train", "valid"}, ["train"], "valid"),
        ({"train", "val", "test"}, ["train", "val"], "test"),
        ({"train", "val", "valid", "test"}, ["train", "val", "valid"], "test"),
        ({"trainval", "train", "val", "test"}, ["trainval"], "test"),
    ],
)
def test_splits_are_chosen_from_those_that_a_class_knows(known: set[str], trainval: list[str], test: str) -> None:
    found = torchvision_sets._splits("X", "split", lambda argument: argument if argument[1] in known else None)
    assert found == (tuple(("split", name) for name in trainval), (("split", test),))


@pytest.mark.parametrize(
    "known", [set(), {"train"}, {"test"}, {"trainval"}, {"unlabeled", "val"}], ids=lambda names: "-".join(sorted(names))
)
def test_class_without_both_splits_is_refused(known: set[str]) -> None:
    with pytest.raises(UserError, match="torchvision:X"):
        torchvision_sets._splits("torchvision:X", "split", lambda argument: argument[1] in known or None)


class Pictures:
    """Images of different modes; the last one cannot be decoded."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index == 2:
            raise RuntimeError
        return Image.new("L" if index else "RGBA", (4, 2), 7), 0


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> TorchvisionImages:
    monkeypatch.setattr(torchvision_sets, "_opened", lambda *_: Pictures())
    return TorchvisionImages("torchvision:X", "/data", (("split", "train"), ("split", "val")))


def test_splits_of_torchvision_follow_each_other_as_rgb(images: TorchvisionImages) -> None:
    for index in (0, 1, 3, 4):
        assert images[index].shape == (2, 4, 3)
        assert images[index].dtype == np.uint8
    with pytest.raises(IndexError):
        images[6]


def test_image_that_cannot_be_read_is_named_by_split_and_number(images: TorchvisionImages) -> None:
    with pytest.raises(ImageFault, match=r"torchvision:X in /data: val image 2: .*RuntimeError"):
        images[5]
