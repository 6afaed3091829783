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


def write_python_version(base: Path, protocol: int = 2) -> None:
    """CIFAR-10 for Python, as numpy pickles it; from other images than the binary version's small tree."""
    inner = base / "cifar-10-batches-py"
    inner.mkdir(parents=True)
    meta = {"label_names": ["airplane", "automobile"], "num_vis": 3072, "num_cases_per_batch": 2}
    (inner / "batches.meta").write_bytes(pickle.dumps(meta, protocol))
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        data = cifar_images(2, sum(name.encode())).transpose(0, 3, 1, 2).reshape(2, 3072)
        value = {"batch_label": name, "labels": [1, 0], "data": data, "filenames": ["a.png", "b.png"]}
        content = pickle.dumps(value, protocol)
        if protocol == 2:  # numpy in Python 3 writes text; Python 2, which made the official files, wrote the bytes
            content = python2_pickle(value, data.tobytes())
        (inner / name).write_bytes(content)


def python2_pickle(value: dict[str, object], content: bytes) -> bytes:
    """The pickle that Python 2 makes of a batch: byte strings (opcodes T and U) instead of text."""

    def text(one: str) -> bytes:
        return b"U" + bytes([len(one)]) + one.encode()

    def texts(many: object) -> bytes:
        return b"](" + b"".join(map(text, many)) + b"e"  # type: ignore[call-overload]

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89T" + len(content).to_bytes(4, "little") + content + b"tb"
    )
    labels = b"](K\x01K\x00e"
    pairs = [("batch_label", text(str(value["batch_label"]))), ("labels", labels), ("data", array),
             ("filenames", texts(value["filenames"]))]  # fmt: skip
    return b"\x80\x02}(" + b"".join(text(key) + made for key, made in pairs) + b"u."


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_cifar10_for_python_has_the_images_of_its_arrays(tmp_path: Path, load, protocol: int) -> None:
    write_python_version(tmp_path / "cifar10", protocol)
    splits = load("cifar10")
    assert splits["test"].classes == ("airplane", "automobile")
    assert splits["trainval"].labels.tolist() == [1, 0] * 5
    assert np.array_equal(splits["test"].read(1), cifar_images(2, sum(b"test_batch"))[1])
    assert np.array_equal(splits["trainval"].read(9), cifar_images(2, sum(b"data_batch_5"))[1])
    with (tmp_path / "cifar10/cifar-10-batches-py/test_batch").open("rb") as file:
        official = pickle.load(file, encoding="bytes")
    assert np.array_equal(
        np.asarray(official.get(b"data", official.get("data")))[1].reshape(3, 32, 32).transpose(1, 2, 0),
        splits["test"].read(1),
    )


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"labels": [0, 1], "data": np.zeros((1, 3072), np.uint8)}),
        pickle.dumps({"labels": [0, 1], "data": np.zeros((2, 3072))}),
        pickle.dumps({"data": np.zeros((2, 3072), np.uint8)}),
        pickle.dumps({"labels": [0, 10**12], "data": np.zeros((2, 3072), np.uint8)}),
        pickle.dumps([1]),
        pickle.dumps({"labels": [0, print], "data": 1}),
        b"",
    ],
)
def test_damaged_or_hostile_file_of_cifar_for_python_is_named(tmp_path: Path, load, content: bytes) -> None:
    write_python_version(tmp_path / "cifar10")
    (tmp_path / "cifar10/cifar-10-batches-py/data_batch_3").write_bytes(content)
    with pytest.raises(UserError, match="data_batch_3"):
        load("cifar10")


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
