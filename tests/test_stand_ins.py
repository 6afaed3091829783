"""A pointer of git-lfs or the page of a site in the place of a file is called what it is, by every reader of files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from trex import tensor_files
from trex.config import Config, load
from trex.config.schema import DataConfig
from trex.datasets.cog_pickle import read_plain_pickle
from trex.datasets.download import unpack
from trex.datasets.layout import read_mat, read_names
from trex.errors import TrexError, UserError
from trex.features.store import open_features
from trex.files import read_json, sha256
from trex.stand_ins import stand_in

STAND_INS = {
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0a1b\nsize 102400\n",
        "a git-lfs pointer.*git lfs pull",
    ),
    "annex": (b"/annex/objects/SHA256E-s1--0a1b.h5\n", "a git-annex pointer.*git annex get"),
    "page": (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "an HTML or XML page.*needs a login"),
    "answer": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an HTML or XML page.*needs a login"),
}
READERS: dict[str, Callable[[Path], object]] = {
    "weights.pth": tensor_files.load,
    "weights.safetensors": tensor_files.load,
    "test.h5": open_features,
    "levels.pkl": read_plain_pickle,
    "train.txt": read_names,
    "setid.mat": lambda path: read_mat(path, "trnid"),
    "train.json": read_json,
    "archive.tar.gz": lambda path: unpack(path, path.parent / "out"),
}


@pytest.mark.parametrize("kind", STAND_INS)
@pytest.mark.parametrize("name", READERS)
def test_what_is_in_the_place_of_a_file_is_called_what_it_is(tmp_path: Path, name: str, kind: str) -> None:
    content, said = STAND_INS[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises((UserError, ValueError), match=rf"(?s){name}: .*{said}"):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("name", [*READERS, "recipe.yaml", "state.json"])
def test_pipe_or_device_in_the_place_of_a_file_is_refused_at_once(tmp_path: Path, name: str, kind: str) -> None:
    """A pipe that nobody writes to would be waited for, and a device like /dev/zero has no end."""
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    read = READERS.get(name) or {"recipe.yaml": lambda path: load(path, Config), "state.json": sha256}[name]
    with pytest.raises((TrexError, OSError), match=rf"{name}.*(pipe|device)|(pipe|device).*{name}"):
        read(path)


@pytest.mark.parametrize(
    "start", [b"", b"PK\x03\x04", b"\x80\x02}q", b"\x89HDF\r\n", b"a/1.jpg 3\n", b"{}", b"\xff\xd8"]
)
def test_other_files_are_themselves(start: bytes) -> None:
    assert stand_in(start) == ""


def test_pointer_in_the_place_of_an_image_names_itself(tmp_path: Path) -> None:
    from trex.datasets.registry import load_splits
    from trex.images.decode import ImageFault

    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        (tmp_path / split / "cat/1.jpg").write_bytes(STAND_INS["lfs"][0])
    images = load_splits("mine", DataConfig(folders={"mine": str(tmp_path)}))["test"]
    with pytest.raises(ImageFault, match="a git-lfs pointer"):
        images.read(0)
