"""CoG's pickles: the official content is read once, anything else is refused, and no code in a pickle is run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.conftest import found, put
from trex.datasets.cog_pickle import read_plain_pickle
from trex.errors import UserError

LEVELS = [[f"n{level}{i:07d}" for i in (2, 1)] for level in range(5)]


def write_benchmark(folder: Path, protocol: int = 4, dtype: type = object, slash: str = "") -> None:
    """Write five levels of two concepts with three train images and one test image each."""
    folder.mkdir(exist_ok=True)
    split = {}
    for wnid in (wnid for level in LEVELS for wnid in level):
        names = [f"{slash}{wnid}/{wnid}_{i}.JPEG" for i in (3, 1, 2, 9)]
        put(folder, *(name.lstrip("/") for name in names))
        split[wnid] = {"train": np.array(names[:3], dtype), "test": np.array(names[3:], dtype)}
    (folder / "levels.pkl").write_bytes(pickle.dumps(LEVELS, protocol))
    (folder / "files.pkl").write_bytes(pickle.dumps(split, protocol))


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [object, str])
def test_level_is_read_with_sorted_ids_and_files(tmp_path: Path, load, protocol: int, dtype: type) -> None:
    write_benchmark(tmp_path / "cog", protocol, dtype)
    splits = load("cog_l2")
    first, second = sorted(LEVELS[1])
    assert splits["trainval"].classes == (first, second)
    assert found(splits["trainval"]) == [(f"{w}/{w}_{i}.JPEG", w) for w in (first, second) for i in (1, 2, 3)]
    assert found(splits["test"]) == [(f"{w}/{w}_9.JPEG", w) for w in (first, second)]


def test_pickles_are_read_once_and_then_the_json_files_give_the_same_split(tmp_path: Path, load) -> None:
    write_benchmark(tmp_path / "cog", slash="/")
    before = load("cog_l3")["trainval"].digest
    for path in (tmp_path / "cog").glob("*.pkl"):
        path.unlink()
    assert load("cog_l3")["trainval"].digest == before
    assert len(load("cog_l5")["test"]) == 2


def test_images_may_be_in_a_separate_folder(tmp_path: Path, load) -> None:
    write_benchmark(tmp_path / "cog")
    (tmp_path / "cog" / "imagenet21k").mkdir()
    for path in list((tmp_path / "cog").glob("n*")):
        path.rename(tmp_path / "cog" / "imagenet21k" / path.name)
    assert len(found(load("cog_l1")["trainval"])) == 6


def test_missing_pickles_are_an_error_that_says_what_is_expected(tmp_path: Path, load) -> None:
    put(tmp_path / "cog", "n01/1.JPEG")
    with pytest.raises(UserError, match=r"expected the two pickles of the CoG benchmark"):
        load("cog_l1")


class Attack:
    """An object whose pickle calls `function(*arguments)` when it is loaded."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("function", [os.system, eval, exec, print, np.load, getattr, bytearray])
def test_pickle_that_would_call_a_function_is_refused(tmp_path: Path, function: object, protocol: int) -> None:
    mark = tmp_path / "was_run"
    content = [Attack(function, f"__import__('pathlib').Path({str(mark)!r}).touch()")]
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(UserError, match=r"evil\.pkl: refused"):
        read_plain_pickle(tmp_path / "evil.pkl")
    assert not mark.exists()


HOSTILE = {
    "numbers instead of strings": pickle.dumps({"a": np.arange(4)}),
    "floats": pickle.dumps([1.5]),
    "a set": pickle.dumps({"a"}),
    "nesting": pickle.dumps([[[[[[[["deep"]]]]]]]]),
    "a persistent id": b"Pfoo\n.",
    "truncated": pickle.dumps(LEVELS)[:20],
    "empty": b"",
    "not a pickle": b"PK\x03\x04 something else",
    "array state of another kind": b"cnumpy.core.multiarray\n_reconstruct\n(tR(I1\nI2\nI3\ntb.",
    "endless opcode": b"\x8d" + b"\xff" * 8,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_or_damaged_pickle_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "odd.pkl").write_bytes(HOSTILE[name])
    with pytest.raises(UserError, match=r"odd\.pkl: refused"):
        read_plain_pickle(tmp_path / "odd.pkl")


def test_recursive_structure_is_refused(tmp_path: Path) -> None:
    loop: list[object] = []
    loop.append(loop)
    (tmp_path / "loop.pkl").write_bytes(pickle.dumps(loop))
    with pytest.raises(UserError, match="nested too deeply"):
        read_plain_pickle(tmp_path / "loop.pkl")
