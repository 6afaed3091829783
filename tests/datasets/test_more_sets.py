"""CIFAR, Caltech-101, the splits of DTD, Places365: official layouts give the right images, classes and splits."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.conftest import found, put
from tests.datasets.trees import cifar_file, cifar_images, make
from trex.config.schema import DataConfig
from trex.datasets.registry import known, load_splits
from trex.errors import UserError
from trex.images.decode import ImageFault

#: Classes, trainval and test images, from each dataset's page (see the record's file).
OFFICIAL = {
    "cifar10": (10, 50000, 10000),
    "cifar100": (100, 50000, 10000),
    "caltech101": (102, 3060, 6084),
    "places365": (365, 1803460, 36500),
    **{f"dtd_{partition}": (47, 3760, 1880) for partition in range(2, 11)},
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_record_has_the_official_counts(name: str) -> None:
    counts = known()[name].counts
    assert counts is not None
    assert (counts.classes, counts.trainval, counts.test) == OFFICIAL[name]


def test_cifar10_has_the_images_of_its_binary_files(tmp_path: Path, load) -> None:
    make("cifar10", tmp_path)
    splits = load("cifar10")
    assert splits["test"].classes == ("airplane", "automobile")
    assert splits["trainval"].labels.tolist() == [0, 1] * 5
    assert splits["test"].labels.tolist() == [1, 0, 1]
    for number in range(1, 6):
        for i in range(2):
            assert np.array_equal(splits["trainval"].read(2 * number - 2 + i), cifar_images(2, number)[i])
    assert splits["trainval"].name(3) == "data_batch_2.bin/00001"
    assert splits["test"].name(2) == "test_batch.bin/00002"
    again = pickle.loads(pickle.dumps(splits["test"]))
    assert np.array_equal(again.read(2), cifar_images(3, 6)[2])
    assert len(pickle.dumps(splits["test"].images)) < 1000, "loader processes get paths, not pixels"


def test_cifar100_has_the_fine_labels(tmp_path: Path, load) -> None:
    make("cifar100", tmp_path)
    splits = load("cifar100")
    assert splits["trainval"].labels.tolist() == [2, 1, 0, 2]
    assert splits["test"].classes == ("apple", "aquarium_fish", "baby")
    assert np.array_equal(splits["test"].read(1), cifar_images(2, 1)[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (cifar_file(cifar_images(2, 0), [0, 7]), r"test_batch\.bin: image 1 has the label 7, expected 0 to 1"),
        (cifar_file(cifar_images(2, 0), [0, 1])[:-1], r"test_batch\.bin: 6145 bytes, expected a multiple of 3073"),
    ],
)
def test_damaged_file_of_cifar_is_named(tmp_path: Path, load, content: bytes, message: str) -> None:
    base = make("cifar10", tmp_path)
    (base / "cifar-10-batches-bin/test_batch.bin").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load("cifar10")


def test_file_of_cifar_that_shrinks_later_is_a_broken_image(tmp_path: Path, load) -> None:
    base = make("cifar10", tmp_path)
    split = load("cifar10")["test"]
    path = base / "cifar-10-batches-bin/test_batch.bin"
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(ImageFault, match=r"test_batch\.bin, image 2") as error:
        split.read(2)
    assert error.value.broken
    path.unlink()
    with pytest.raises(ImageFault, match="there is no such file") as error:
        split.read(0)
    assert not error.value.broken


@pytest.mark.parametrize("inner", ["", "101_ObjectCategories", "caltech-101/101_ObjectCategories"])
def test_caltech101_trains_on_thirty_images_per_category_that_depend_on_the_names_only(
    tmp_path: Path, load, inner: str
) -> None:
    counts = {"BACKGROUND_Google": 33, "accordion": 55}
    for name, count in counts.items():
        put(tmp_path / "caltech101" / inner, *(f"{name}/image_{i:04d}.jpg" for i in range(1, count + 1)))
    splits = load("caltech101")
    assert np.bincount(splits["trainval"].labels).tolist() == [30, 30]
    assert np.bincount(splits["test"].labels).tolist() == [3, 25]
    assert splits["test"].classes == tuple(counts)
    expected = set()
    for name, count in counts.items():
        stems = [f"{name}/image_{i:04d}" for i in range(1, count + 1)]
        by_digest = sorted(stems, key=lambda stem: hashlib.sha256(stem.encode()).digest())
        expected |= {f"{stem}.jpg" for stem in by_digest[:30]}
    assert {splits["trainval"].name(i) for i in range(60)} == expected


def test_each_split_of_dtd_reads_its_own_lists(tmp_path: Path) -> None:
    names = [f"dtd_{partition}" for partition in range(2, 11)]
    make("dtd_2", tmp_path)
    data = DataConfig(root=str(tmp_path), subsets=("dtd", *names))
    for partition, name in enumerate(["dtd", *names], start=1):
        splits = load_splits(name, data)
        assert splits["trainval"].name(0) == f"images/banded/banded_{partition}.jpg"
        assert splits["test"].name(1) == f"images/dotted/dotted_{(partition + 1) % 10 + 1}.jpg"


@pytest.mark.parametrize("inner", ["", "places365_standard"])
@pytest.mark.parametrize("names", [("airfield", "apartment_building-outdoor"), ("a/airfield", "a/apartment/outdoor")])
def test_classes_of_places365_may_nest(tmp_path: Path, load, inner: str, names: tuple[str, ...]) -> None:
    put(
        tmp_path / "places365" / inner,
        *(f"{split}/{name}/{i}.jpg" for split in ("train", "val") for name in names for i in (1, 2)),
    )
    splits = load("places365")
    assert splits["trainval"].classes == names
    assert found(splits["test"]) == [(f"val/{name}/{i}.jpg", name) for name in names for i in (1, 2)]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("val/z/zoo/1.jpg", r"val/z/zoo/1\.jpg: the class 'z/zoo' has no images in"),
        ("train/1.jpg", "one folder per class"),
    ],
)
def test_odd_image_of_places365_is_named(tmp_path: Path, load, extra: str, message: str) -> None:
    put(make("places365", tmp_path), extra)
    with pytest.raises(UserError, match=message):
        load("places365")
