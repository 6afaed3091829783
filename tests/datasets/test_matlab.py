"""MATLAB files are read as scipy reads them, and damage is an error where scipy's reader can end the process."""

from __future__ import annotations

import random
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat
from scipy.sparse import csc_matrix

from tests.datasets.conftest import struct
from trex.datasets.layout import read_mat
from trex.datasets.matlab import read_variables
from trex.errors import UserError

VARIABLES: dict[str, Any] = {
    "labels": np.array([[1, 2, 77]], np.uint8),
    "ids": np.arange(5000.0),
    "one": 7,
    "matrix": np.arange(6, dtype=np.int32).reshape(2, 3),
    "names": np.array([["Audi TT", "BMW X5", "café 木"]], object),
    "annotations": struct(fname=["1.jpg", "2.jpg"], **{"class": [2, 1]}),
    "text": "plain",
    "none": np.zeros((0, 0)),
    "negative": np.array([-3, 70000], np.int64),
}


def equal(ours: Any, scipys: Any) -> bool:
    if isinstance(scipys, str | np.str_):
        return str(ours) == str(scipys)
    scipys = np.asarray(scipys)
    if scipys.dtype.names:
        return all(equal(np.asarray(ours[name]), np.asarray(scipys[name])) for name in scipys.dtype.names)
    if scipys.dtype == object:
        pairs = zip(np.atleast_1d(ours).flat, np.atleast_1d(scipys).flat, strict=True)
        return np.shape(ours) == scipys.shape and all(equal(one, other) for one, other in pairs)
    return np.shape(ours) == scipys.shape and np.array_equal(ours, scipys)


@pytest.mark.parametrize("compressed", [True, False])
def test_variables_are_those_that_scipy_reads(tmp_path: Path, compressed: bool) -> None:
    savemat(tmp_path / "a.mat", VARIABLES, do_compression=compressed)
    expected = loadmat(tmp_path / "a.mat", squeeze_me=True)
    found = read_variables((tmp_path / "a.mat").read_bytes())
    assert set(found) == set(VARIABLES)
    for name in VARIABLES:
        if name != "none":
            assert equal(found[name], expected[name]), name


def test_variable_of_another_kind_does_not_matter(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"sparse": csc_matrix(np.eye(3)), "labels": np.array([[1, 2]])})
    (labels,) = read_mat(tmp_path / "a.mat", "labels")
    assert labels.tolist() == [1, 2]
    with pytest.raises(UserError, match=r"a\.mat: expected a MATLAB file with sparse"):
        read_mat(tmp_path / "a.mat", "sparse")


@pytest.mark.parametrize("compressed", [True, False])
def test_randomly_damaged_file_is_read_or_refused_within_a_second(tmp_path: Path, compressed: bool) -> None:
    chance, path = random.Random(0), tmp_path / "damaged.mat"
    savemat(path, {**VARIABLES, "ids": np.arange(9.0)}, do_compression=compressed)
    whole = path.read_bytes()
    outcomes = {"read": 0, "refused": 0}
    for number in range(1000):
        content = bytearray(whole)
        for _ in range(chance.choice([1, 1, 2, 6])):
            content[chance.randrange(100, len(content))] = chance.choice([chance.randrange(256), 0, 255])
        if chance.random() < 0.1:
            del content[chance.randrange(len(content)) :]
        path.write_bytes(content)
        start = time.process_time()
        try:
            read_mat(path, "labels", "annotations")
            outcomes["read"] += 1
        except UserError as error:
            assert str(path) in str(error)
            outcomes["refused"] += 1
        assert time.process_time() - start < 1, number
    assert min(outcomes.values()) > 20, outcomes


def test_variable_that_expands_to_gigabytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trex.datasets.matlab.MAX_BYTES", 1 << 20)
    packed = zlib.compress(bytes(8 << 20))
    header = bytes(124) + b"\x00\x01IM"
    (tmp_path / "bomb.mat").write_bytes(
        header + (15).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed
    )
    with pytest.raises(UserError, match=r"bomb\.mat: .*has more than 1048576 bytes"):
        read_mat(tmp_path / "bomb.mat", "x")
