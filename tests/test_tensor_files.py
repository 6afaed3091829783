"""Files of other programs are read as data: numpy's values are understood, and nothing in a file is run or built."""

from __future__ import annotations

import argparse
import functools
import os
import pickle
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy._core.multiarray import _reconstruct  # type: ignore[attr-defined]

from trex import tensor_files
from trex.errors import UserError
from trex.placeholders import Array, Dropped

ROOT = Path(__file__).resolve().parents[1]
FORMATS = pytest.mark.parametrize("zipped", [True, False])


def written(folder: Path, value: Any, zipped: bool = True) -> Path:
    """A file of torch.save, as a zip archive or in the format of PyTorch before 1.6."""
    torch.save(value, folder / "w.pth", _use_new_zipfile_serialization=zipped)
    return folder / "w.pth"


# ---- numpy's values, a Namespace, paths


@FORMATS
@pytest.mark.parametrize(
    ("scalar", "expected"),
    [
        (np.float64(1.5), 1.5), (np.float32(0.25), 0.25), (np.float16(0.5), 0.5), (np.int64(-3), -3),
        (np.uint8(200), 200), (np.bool_(True), True), (np.complex64(1 + 2j), 1 + 2j), (np.str_("café"), "café"),
        (np.bytes_(b"ab"), b"ab"), (np.dtype(">i4").type(7), 7),
    ],
)  # fmt: skip
def test_scalar_of_numpy_is_read_as_pythons(tmp_path: Path, scalar: Any, expected: object, zipped: bool) -> None:
    found = tensor_files.load(written(tmp_path, {"epoch": scalar}, zipped))["epoch"]
    assert (found, type(found)) == (expected, type(expected))


@FORMATS
@pytest.mark.parametrize(
    "array",
    [
        np.linspace(0, 0.1, 12), np.arange(6, dtype=">i4").reshape(2, 3), np.array([[0.5, 1], [2, 3]], order="F"),
        np.zeros((0, 3), np.float32), np.array(5), np.array([True, False]), np.array([[1 + 2j]], dtype=">c16"),
        np.array([1.5, -2], dtype=np.float16),
    ],
)  # fmt: skip
def test_array_of_numbers_becomes_the_same_tensor(tmp_path: Path, array: Any, zipped: bool) -> None:
    found = tensor_files.load(written(tmp_path, {"a": array}, zipped))["a"]
    assert isinstance(found, Array)
    tensor = found.tensor()
    assert tensor is not None
    assert tensor.shape == array.shape
    assert tensor.numpy().dtype == array.dtype.newbyteorder("=")
    assert np.array_equal(tensor.numpy(), array)


@pytest.mark.parametrize(
    "value",
    [
        np.array(["a", "b"]), np.array([1, "a"], dtype=object), np.zeros(2, dtype=[("a", "i4")]),
        np.datetime64("2020-01-01"), Path("/x/y"), argparse.Namespace(a=1),
    ],
)  # fmt: skip
def test_other_values_are_read_as_nothing(tmp_path: Path, value: Any) -> None:
    found = tensor_files.load(written(tmp_path, {"args": value, "epoch": 3}))
    assert found["epoch"] == 3
    assert isinstance(found["args"], Dropped) or found["args"].tensor() is None


def test_names_of_numpy_1_are_those_of_numpy_2(tmp_path: Path) -> None:
    path = written(tmp_path, {"a": np.arange(3), "s": np.float64(2)}, zipped=False)
    content = path.read_bytes()
    new, old = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    assert content.count(new) == 2
    path.write_bytes(content.replace(new, old))
    found = tensor_files.load(path)
    assert (found["a"].tensor().tolist(), found["s"]) == ([0, 1, 2], 2.0)


def test_file_with_numpys_values_is_read_without_numpy(tmp_path: Path) -> None:
    path = written(tmp_path, {"args": argparse.Namespace(lr=np.linspace(0, 1, 3)), "epoch": np.int64(4)})
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "from pathlib import Path; from trex import tensor_files\n"
        f"print(tensor_files.load(Path({str(path)!r}))['epoch'])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "4\n", done.stderr


# ---- hostile files


class Call:
    """An object whose pickle calls a function."""

    def __init__(self, function: Callable[..., Any], *values: object) -> None:
        self.call = function, values

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


def made_by_call(canary: Path) -> dict[str, tuple[Any, str]]:
    """Values, each with what the error says about it."""
    touch = Call(os.system, f"touch {canary}")
    double = ("f8", False, True)
    return {
        "system": (touch, "holds more than tensors.*system"),
        "getattr": (Call(getattr, "text", "upper"), "holds more than tensors.*getattr"),
        "eval": (Call(eval, f"open({str(canary)!r}, 'w')"), "holds more than tensors.*eval"),
        "namespace": (argparse.Namespace(lr=0.1, note=[touch]), "holds more than tensors.*system"),
        "object array": (np.array([touch], dtype=object), "holds more than tensors.*system"),
        "partial": (Call(argparse.FileType, "w"), "holds more than tensors.*FileType"),
        "large array": (Call(_reconstruct, np.ndarray, (10**12,), b"d"), "does not begin as an empty array"),
        "other class": (Call(_reconstruct, np.dtype, (0,), b"b"), "does not begin as an empty array"),
        "array": (Call(np.ndarray, (10**3,)), "does not begin as an empty array"),
        "type": (Call(np.dtype, "float64, (1000000000,)i4"), "a numpy type has the code"),
        "bytes": (Call(bytes, 10**3), "a string of bytes is made by a call"),
        "scalar": (Call(np._core.multiarray.scalar, Call(np.dtype, *double), b"123"), "type f8 holds 3 bytes"),
    }


@FORMATS
@pytest.mark.parametrize("kind", made_by_call(Path()))
def test_file_that_would_call_something_is_refused_and_nothing_runs(tmp_path: Path, kind: str, zipped: bool) -> None:
    value, expected = made_by_call(tmp_path / "canary")[kind]
    path = written(tmp_path, {"model": {"w": torch.zeros(1)}, "args": value}, zipped)
    with pytest.raises(UserError, match=rf"(?s)w\.pth: .*{expected}") as caught:
        tensor_files.load(path)
    assert not (tmp_path / "canary").exists()
    assert "\n" not in str(caught.value)


class State:
    """An array whose pickle has another state."""

    def __init__(self, *state: object) -> None:
        self.state = state

    def __reduce__(self) -> tuple[object, ...]:
        return _reconstruct, (np.ndarray, (0,), b"b"), self.state


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ((1, (10**12,), np.dtype("f8"), False, b"12345678"), r"shape \(1000000000000,\) holds 8 bytes"),
        ((1, (-1, -1), np.dtype("f8"), False, b"12345678"), "no valid shape"),
        ((1, (1,) * 65, np.dtype("f8"), False, b"12345678"), "no valid shape"),
        ((1, (1.0,), np.dtype("f8"), False, b"12345678"), "no valid shape"),
        ((1, (1,), "f8", False, b"12345678"), "no valid shape or type"),
        ((1, (1,), np.dtype("f8"), False, [1.0]), "holds a list, expected 8 bytes"),
        (((1,), np.dtype("f8")), "unknown kind of state"),
    ],
)
def test_array_whose_parts_do_not_fit_is_refused(tmp_path: Path, state: tuple[object, ...], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        tensor_files.load(written(tmp_path, {"args": State(*state)}))


def test_names_that_the_process_allows_are_not_allowed_in_files_and_stay_allowed(tmp_path: Path) -> None:
    path = written(tmp_path, {"model": {"w": torch.zeros(1)}, "args": Call(np.random.default_rng, 3)})
    before = set(torch.serialization.get_safe_globals())
    with torch.serialization.safe_globals([np.random.default_rng]):
        with pytest.raises(UserError, match="default_rng"):
            tensor_files.load(path)
        assert set(torch.serialization.get_safe_globals()) == {*before, np.random.default_rng}
    assert set(torch.serialization.get_safe_globals()) == before


def test_compressed_archive_that_needs_far_more_memory_than_its_size_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {"w": torch.zeros(1_000_000)})
    with zipfile.ZipFile(path) as stored, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    with pytest.raises(UserError, match=r"bomb\.pth: refused: a compressed archive .* unpacks to 4000\d{3} bytes"):
        tensor_files.load(tmp_path / "bomb.pth")


# ---- messages


def test_tensor_that_repeats_a_few_bytes_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {"a": [{"w": torch.zeros(1).expand(100_000, 1000)} for _ in range(3)]})
    with pytest.raises(UserError, match=r"w\.pth: .*a tensor of shape \(100000, 1000\) has only 4 bytes in the file"):
        tensor_files.load(path)


def test_tensor_that_repeats_a_number_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, {"w": torch.ones(1).expand(1000, 1000)})
    assert tensor_files.load(path)["w"].sum() == 1e6


def key_of_tuples(levels: int) -> dict[str, object]:
    nested: tuple[object, ...] = ()
    for _ in range(levels):
        nested = (nested, nested)
    return nested


class Key:
    """A dict whose key is hashed only where its pickle is read."""

    def __init__(self, levels: int) -> None:
        self.levels = levels

    def __reduce__(self) -> tuple[object, ...]:
        return OrderedDict, (), None, None, iter([(key_of_tuples(self.levels), 1)])


@FORMATS
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Key(60), "its references stand for more than"),
        (key_of_tuples(60), "its references stand for more than"),
        (functools.reduce(lambda inner, _: [inner], range(150), []), "nested more than 100 levels"),
    ],
)
def test_small_file_that_expands_without_end_is_refused_at_once(
    tmp_path: Path, value: object, expected: str, zipped: bool
) -> None:
    path = written(tmp_path, {"model": {"w": torch.zeros(1)}, "args": value}, zipped)
    start = time.monotonic()
    with pytest.raises(UserError, match=rf"w\.pth: .*{expected}"):
        tensor_files.load(path)
    assert time.monotonic() - start < 1


#: Runs in its own process with 2 GB, because damage may crash a library.
DAMAGE = """
import random, resource, sys, time, zipfile
from pathlib import Path
import torch
from trex import tensor_files
from trex.errors import UserError

folder, count = Path(sys.argv[1]), int(sys.argv[2])
chance, target = random.Random(0), folder / "damaged.pth"
value = {"model": {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.int64)}, "epoch": 3, "n": [1, "x"]}
for name, zipped in (("new.pth", True), ("old.pth", False)):
    torch.save(value, folder / name, _use_new_zipfile_serialization=zipped)
tensor_files.save(value["model"], folder / "w.safetensors")
with zipfile.ZipFile(folder / "new.pth") as archive:
    parts = {name: archive.read(name) for name in archive.namelist()}
pickled = next(name for name in parts if name.endswith("data.pkl"))
resource.setrlimit(resource.RLIMIT_AS, (1 << 33, 1 << 33))
outcomes = {"read": 0, "refused": 0}
WORDS = ("weights_only", "safe_globals", "trust", "arbitrary")

def changed(content):
    made = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 6])):
        place = chance.randrange(len(made))
        made[place] = chance.choice([chance.randrange(256), chance.choice(made)])
    if chance.random() < 0.1:
        del made[chance.randrange(len(made)):]
    if chance.random() < 0.1:
        begin = chance.randrange(len(made) + 1)
        made[begin:begin] = made[max(begin - chance.randrange(30), 0):begin] * chance.choice([1, 3])
    return bytes(made)

for number in range(count):
    kind = number % 4
    path = target if kind < 3 else folder / "damaged.safetensors"
    if kind == 0:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in parts.items():
                archive.writestr(name, changed(content) if name == pickled else content)
    else:
        source = ("new.pth", "old.pth", "w.safetensors")[kind - 1]
        path.write_bytes(changed((folder / source).read_bytes()))
    print(number, flush=True)
    start = time.monotonic()
    try:
        tensor_files.load(path)
        outcomes["read"] += 1
    except UserError as error:
        text = str(error)
        assert str(path) in text and not any(word in text for word in WORDS), text
        outcomes["refused"] += 1
    assert time.monotonic() - start < 2, number
print(outcomes["read"], outcomes["refused"])
"""


def test_randomly_damaged_file_is_read_or_refused_with_its_name(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DAMAGE, str(tmp_path), "1200"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, f"input {done.stdout.splitlines()[-1:]}: {done.stderr[-2000:]}"
    read, refused = map(int, done.stdout.splitlines()[-1].split())
    assert read + refused == 1200
    assert min(read, refused) > 100, "the damage must lead to both outcomes"


def torchscript(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name in ("constants.pkl", "data.pkl", "version"):
            file.writestr(f"w/{name}", b"")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda path: torch.save({"f": os.system}, path), "more than tensors and plain values"),
        (lambda path: torch.save({"a": 1}, path, pickle_protocol=4), "another pickle protocol"),
        (lambda path: path.write_bytes(pickle.dumps({"a": [1]}, protocol=2)), "not a readable PyTorch file|refused"),
        (lambda path: path.write_bytes(b"<html>404</html>"), "an HTML or XML page"),
        (lambda path: path.write_bytes(b"nothing known"), "no file of torch.save"),
        (lambda path: path.mkdir(), "cannot be read"),
        (torchscript, "not a readable PyTorch file"),
    ],
)
def test_no_error_repeats_the_advice_to_load_unsafely(
    tmp_path: Path, write: Callable[[Path], object], expected: str
) -> None:
    write(tmp_path / "w.pth")
    with pytest.raises(UserError, match=rf"w\.pth: .*({expected})") as caught:
        tensor_files.load(tmp_path / "w.pth")
    text = str(caught.value)
    assert not [word for word in ("weights_only", "safe_globals", "trust", "arbitrary", "\n") if word in text], text
