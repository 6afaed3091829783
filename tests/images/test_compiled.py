"""Compiled code is kept for all copies of the same source, and only read from where nobody else can write."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import trex

PROGRAM = (
    "import numpy as np; from trex.images.color import solarize as f; p = np.array([9, 200], np.uint8); f(p)\n"
    "print(p.tolist() == [9, 55], len(f.stats.cache_hits), f.stats.cache_path)"
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the code in which no compiled code can lie beside the source."""
    code = tmp_path / "code"
    shutil.copytree(Path(trex.__file__).parent, code / "trex", ignore=shutil.ignore_patterns("__pycache__"))
    (code / "trex" / "images" / "__pycache__").touch()  # a file
    return code


def call(code: Path, cache: Path) -> list[str]:
    variables = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM], cwd="/", capture_output=True, text=True,
        env={**variables, "PYTHONPATH": str(code), "XDG_CACHE_HOME": str(cache)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_compiled_code_is_used_again_unless_a_file_of_the_package_changes(copy: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first, second = call(copy, cache), call(copy, cache)
    assert (first[:2], second) == (["True", "0"], ["True", "1", first[2]])
    assert Path(first[2]).stat().st_mode & 0o777 == 0o700
    with (copy / "trex" / "images" / "vectors.py").open("a") as file:
        file.write("# changed\n")
    third = call(copy, cache)
    assert third[:2] == ["True", "0"]
    assert third[2] != first[2]


@pytest.mark.parametrize("damage", ["empty", "truncated", "text"])
def test_damaged_files_are_compiled_again(copy: Path, tmp_path: Path, damage: str) -> None:
    folder = Path(call(copy, tmp_path / "cache")[2])
    for path in folder.iterdir():
        whole = path.read_bytes()
        path.write_bytes({"empty": b"", "truncated": whole[: len(whole) // 2], "text": b"cannot be unpickled"}[damage])
    assert call(copy, tmp_path / "cache")[:2] == ["True", "0"]


def test_a_folder_that_others_can_write_is_not_read(copy: Path, tmp_path: Path) -> None:
    folder = Path(call(copy, tmp_path / "cache")[2])
    folder.chmod(0o770)
    assert call(copy, tmp_path / "cache") == ["True", "0", "None"]
