"""Damaged and hostile feature files: each is refused at once with its name, or read with the right content."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.feature_files import forge, move, overwrite
from tests.records.damage import damaged
from trex.errors import UserError
from trex.features.index import read_index
from trex.features.store import Contents, Features, open_features, write_features
from trex.records.feature_provenance import FeatureProvenance

COUNT = 2000
SECONDS = 1.0  #: of the processor, in which each file is refused or read
MADE_BY = FeatureProvenance(
    "run", "pets", "test", "s" * 64, "e" * 64, "epoch-0001", "resize", "float32", True, {"torch": "2.10"}
)
ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


def write(path: Path, provenance: FeatureProvenance = MADE_BY) -> None:
    names, classes = ["a.jpg", "b.jpg", "c.jpg"], ("cat", "dog")
    write_features(path, [ROWS[:2], ROWS[2:]], Contents(ROWS.shape, np.arange(3) % 2, names, classes, provenance))


@pytest.fixture
def good(tmp_path: Path) -> Path:
    write(tmp_path / "good.h5")
    return tmp_path / "good.h5"


def content(found: Features) -> tuple[object, ...]:
    return (found.features.tolist(), found.labels.tolist(), found.names, found.classes, found.skipped, found.digest)


def random_damage(chance: random.Random, good: bytes) -> bytes:
    """A file with a few other bytes (often in its index), a cut, or a part that is zero or repeated."""
    changed = bytearray(good)
    for _ in range(chance.choice([1, 1, 2, 8])):
        changed[chance.choice([chance.randrange(len(good)), chance.randrange(2048)])] = chance.randrange(256)
    begin = chance.randrange(len(good))
    end = min(begin + chance.choice([8, 512, 4096]), len(good))
    if (kind := chance.random()) < 0.1:
        del changed[begin:]
    elif kind < 0.2:
        changed[begin:end] = bytes(end - begin)
    elif kind < 0.3:
        changed[begin:begin] = changed[begin:end]
    return bytes(changed)


def test_randomly_damaged_file_is_refused_within_a_second_or_has_the_right_content(good: Path, tmp_path: Path) -> None:
    chance, target, index = random.Random(0), tmp_path / "damaged.h5", read_index(good).to_json()
    expected, whole = content(open_features(good)), good.read_bytes()
    outcomes = {"read": 0, "refused": 0}
    for number in range(COUNT):
        if number % 2:
            target.write_bytes(random_damage(chance, whole))
        else:
            target.write_bytes(whole)
            forge(target, damaged(chance, index))
        start = time.process_time()
        try:
            assert content(open_features(target)) == expected, f"input {number}"
            outcomes["read"] += 1
        except UserError as error:
            assert str(target) in str(error), error
            outcomes["refused"] += 1
        assert time.process_time() - start < SECONDS, f"input {number}"
    assert min(outcomes.values()) > COUNT / 20, f"the damage must lead to both outcomes: {outcomes}"


@pytest.mark.parametrize(
    ("key", "changes", "message"),
    [
        ("features", {"offset": 1 << 62}, "ends at byte"),
        ("features", {"shape": (10**6, 10**6)}, "ends at byte"),
        ("features", {"shape": (0, 1 << 62)}, "ends at byte"),
        ("features", {"shape": (3, 2, 2)}, "ends at byte"),
        ("features", {"shape": (12,)}, "do not fit together"),
        ("features", {"shape": (2, 6)}, "do not fit together"),
        ("features", {"offset": -1}, "expected 0"),
        ("features", {"offset": 0}, "its content has another SHA-256"),
        ("features", {"dtype": "|O"}, r"elements of type \|O"),
        ("features", {"dtype": "<f8"}, "elements of type <f8"),
        ("labels", {"dtype": "<f8"}, "elements of type <f8"),
        ("names", {"dtype": "|S99999999"}, "ends at byte"),
        ("classes", {"shape": (1,)}, "labels from 0 to 1, expected 0 to 0"),
    ],
)
def test_place_that_no_array_has_is_refused(good: Path, key: str, changes: dict[str, object], message: str) -> None:
    move(good, key, **changes)
    with pytest.raises(UserError, match=rf"good\.h5: .*{message}"):
        open_features(good)


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("features", ROWS[::-1], "its content has another SHA-256"),
        ("labels", np.array([99]), "labels from 0 to 99, expected 0 to 1"),
        ("labels", np.array([1]), "its content has another SHA-256"),
        ("names", np.array([b"b.jpg"]), "its content has another SHA-256"),
    ],
)
def test_array_that_has_changed_is_refused(good: Path, key: str, values: np.ndarray, message: str) -> None:
    overwrite(good, key, values)
    with pytest.raises(UserError, match=rf"good\.h5: damaged: .*{message}"):
        open_features(good)


def _older(path: Path) -> None:
    with h5py.File(path, "w", libver="v110") as file:
        file["features"] = ROWS
        file.attrs["format"] = 5


def _newer(path: Path) -> None:
    forge(path, b'{"format": 7}')


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_older, "an HDF5 file without the index.* made by an older version.* extract again"),
        (_newer, "format: found 7, expected 6.* extract again"),
        (_pipe, "cannot be read .it is a folder, a pipe or a device, expected a file"),
        (lambda path: path.write_bytes(b""), r"not a feature file\. Delete it and extract again"),
        (lambda path: forge(path, b"[" * 100_000), "Delete the file and extract again"),
        (lambda path: forge(path, b" " * 5_000_000), "its index has another SHA-256"),
        (lambda path: path.unlink(), "this feature file does not exist. Extract the features first"),
    ],
)
def test_other_file_in_the_place_of_features_is_refused(good: Path, make: Callable[[Path], None], message: str) -> None:
    make(good)
    for read in (open_features, read_index):
        with pytest.raises(UserError, match=rf"good\.h5: .*{message}"):
            read(good)


def test_file_that_ends_within_an_array_is_refused(good: Path) -> None:
    os.truncate(good, read_index(good).arrays["features"].offset + 10)
    with pytest.raises(UserError, match=r"good\.h5: damaged: 'features' of shape \(3, 4\) ends at byte"):
        open_features(good)


def test_no_content_reaches_the_hdf5_library(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("opened by HDF5")

    monkeypatch.setattr(h5py, "File", refuse)
    assert open_features(good).names == ["a.jpg", "b.jpg", "c.jpg"]


@pytest.mark.parametrize("length", [1, 3000, 70_000])
def test_long_provenance_makes_a_larger_index_in_a_file_that_hdf5_reads(tmp_path: Path, length: int) -> None:
    path = tmp_path / "long.h5"
    versions = {f"library{number}": "1" * 40 for number in range(length // 50 + 1)}
    write(path, FeatureProvenance(*(*vars(MADE_BY).values(),)[:9], versions))
    assert open_features(path).provenance.versions == versions
    with h5py.File(path) as file:
        assert file.userblock_size >= length
        assert np.array_equal(file["features"], ROWS)
        assert file["names"].asstr()[:].tolist() == ["a.jpg", "b.jpg", "c.jpg"]
        places = read_index(path).arrays
        assert {key: file[key].id.get_offset() for key in places if file[key].size} == {
            key: place.offset for key, place in places.items() if place.offset
        }
        assert not any(place.offset % 64 for place in places.values()), "mapped arrays are aligned"


def test_open_file_is_read_by_forked_processes(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As loader processes do; HDF5's own library must not be used after a fork, so the reader does not use it."""
    monkeypatch.setattr(h5py, "File", None)
    found = open_features(good)
    expected = content(found)
    with multiprocessing.get_context("fork").Pool(2, initializer=_found.append, initargs=(found,)) as pool:
        assert pool.map(_content_of_found, range(8), chunksize=1) == [expected] * 8
    assert content(found) == expected


_found: list[Features] = []


def _content_of_found(_: int) -> tuple[object, ...]:
    return content(_found[-1])
