"""CoG's pickles: the official content is read once, anything else is refused, and no code in a pickle is run."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import time
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.conftest import found, put
from trex.datasets import cog_pickle
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


@pytest.mark.parametrize("file", ["levels.pkl", "files.pkl"])
def test_saved_lists_are_made_again_when_a_pickle_changes_even_with_the_same_time(
    tmp_path: Path, load, file: str
) -> None:
    base = tmp_path / "cog"
    write_benchmark(base)
    assert len(load("cog_l1")["trainval"]) == 6
    before = (base / file).stat()
    content = pickle.loads((base / file).read_bytes())
    if file == "levels.pkl":
        content[0] = content[0][:1]
    else:
        content[LEVELS[0][0]]["train"] = np.zeros(0, object)
    (base / file).write_bytes(pickle.dumps(content))
    os.utime(base / file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(load("cog_l1")["trainval"]) == 3
    saved = json.loads((base / "cog_l5.json").read_text())
    assert saved["pickles"][file] == hashlib.sha256((base / file).read_bytes()).hexdigest()


def test_saved_lists_are_not_written_again_while_the_pickles_stay_the_same(tmp_path: Path, load) -> None:
    write_benchmark(tmp_path / "cog")
    load("cog_l1")
    before = (tmp_path / "cog/cog_l2.json").stat().st_mtime_ns
    os.utime(tmp_path / "cog/files.pkl")
    load("cog_l2")
    assert (tmp_path / "cog/cog_l2.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"pickles": {}, "concepts": {"n1": {"train": "abc", "test": []}}}', "{"]
)
def test_saved_lists_of_another_form_are_named_if_there_are_no_pickles(tmp_path: Path, load, content: str) -> None:
    put(tmp_path / "cog", "n1/1.JPEG")
    (tmp_path / "cog/cog_l1.json").write_text(content)
    with pytest.raises(UserError, match=r"cog_l1\.json"):
        load("cog_l1")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("levels.pkl", [[["n1"]], [], [], [], []]),
        ("levels.pkl", [[7], [], [], [], []]),
        ("files.pkl", {wnid: {"train": "abc", "test": []} for level in LEVELS for wnid in level}),
        ("files.pkl", {wnid: ["a.JPEG"] for level in LEVELS for wnid in level}),
    ],
)
def test_pickle_of_another_form_is_named(tmp_path: Path, load, file: str, content: object) -> None:
    write_benchmark(tmp_path / "cog")
    (tmp_path / "cog" / file).write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=file):
        load("cog_l1")


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
    "memo index that needs gigabytes": b"]r\xff\xff\xff\x7f.",
    "memo index in decimal": b"]p2147483647\n.",
    "endless opcode": b"\x8d" + b"\xff" * 8,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_or_damaged_pickle_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "odd.pkl").write_bytes(HOSTILE[name])
    with pytest.raises(UserError, match=r"odd\.pkl: refused"):
        read_plain_pickle(tmp_path / "odd.pkl")


@pytest.mark.parametrize("name", ["memo index that needs gigabytes", "memo index in decimal"])
def test_number_of_an_object_for_which_memory_would_be_allocated_is_refused_before(tmp_path: Path, name: str) -> None:
    (tmp_path / "odd.pkl").write_bytes(HOSTILE[name])
    with pytest.raises(UserError, match=r"odd\.pkl: refused.*it numbers an object 2147483647 after"):
        read_plain_pickle(tmp_path / "odd.pkl")


def test_small_pickle_that_expands_to_many_items_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = ["a"] * 100
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps([[inner] * 100] * 100))
    with pytest.raises(UserError, match=r"bomb\.pkl: refused.*its references stand for more than"):
        read_plain_pickle(tmp_path / "bomb.pkl")
    monkeypatch.setattr(cog_pickle, "MAX_ITEMS", 1000)
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps([[inner] * 20] * 20))
    with pytest.raises(UserError, match=r"bomb\.pkl: refused.*more than 1000 items"):
        read_plain_pickle(tmp_path / "bomb.pkl")
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps(np.array(["a"] * 1001)))
    with pytest.raises(UserError, match=r"bomb\.pkl: refused.*an array of more than 1000 strings"):
        read_plain_pickle(tmp_path / "bomb.pkl")


def test_recursive_structure_is_refused(tmp_path: Path) -> None:
    loop: list[object] = []
    loop.append(loop)
    (tmp_path / "loop.pkl").write_bytes(pickle.dumps(loop))
    with pytest.raises(UserError, match="fills a container that is already in another one"):
        read_plain_pickle(tmp_path / "loop.pkl")


def test_key_that_would_be_hashed_for_years_is_refused_at_once(tmp_path: Path) -> None:
    doubled = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
    (tmp_path / "key.pkl").write_bytes(b"\x80\x02})" + doubled + b"K\x01s.")
    start = time.process_time()
    with pytest.raises(UserError, match=r"key\.pkl: refused.*its references stand for more than"):
        read_plain_pickle(tmp_path / "key.pkl")
    assert time.process_time() - start < 1


def test_file_larger_than_any_of_the_benchmark_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.pkl").open("wb") as file:
        file.truncate(cog_pickle.MAX_BYTES + 1)
    with pytest.raises(UserError, match=r"large\.pkl: 2147483649 bytes, expected at most 2147483648"):
        read_plain_pickle(tmp_path / "large.pkl")


def test_randomly_damaged_pickle_is_read_or_refused_within_a_second(tmp_path: Path) -> None:
    chance, path = random.Random(0), tmp_path / "damaged.pkl"
    value = {"n01": np.array(["a.jpg", "b.jpg"]), "n02": ["c.jpg"], "ids": [1, 70_000], "same": LEVELS}
    whole = [pickle.dumps(value, protocol) for protocol in (0, 2, 4, 5)]
    outcomes = {"read": 0, "refused": 0}
    for number in range(2000):
        content = bytearray(whole[number % 4])
        for _ in range(chance.choice([1, 1, 2, 6])):
            content[chance.randrange(len(content))] = chance.choice([chance.randrange(256), chance.choice(content)])
        if chance.random() < 0.1:
            del content[chance.randrange(len(content)) :]
        path.write_bytes(content)
        start = time.process_time()
        try:
            read_plain_pickle(path)
            outcomes["read"] += 1
        except UserError as error:
            assert str(path) in str(error)
            outcomes["refused"] += 1
        assert time.process_time() - start < 1, number
    assert min(outcomes.values()) > 200, outcomes
