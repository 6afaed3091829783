"""Packs: the same images as the dataset's folder in a few files, complete or not there, and damage that is named."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.cli import main
from tests.datasets.conftest import photo, put
from tests.datasets.trees import TREES, make
from tests.disks import small_disk
from trex.config.schema import DataConfig
from trex.datasets.members import DataFile
from trex.datasets.pack import write_pack
from trex.datasets.registry import load_splits, own_datasets, place
from trex.datasets.split import Split, SplitName
from trex.datasets.splits_file import from_bytes, to_bytes
from trex.errors import Unwritable, UserError
from trex.images.decode import ImageFault

Splits = dict[SplitName, Split]


def silent(_text: str) -> None:
    pass


def fill(root: Path, images: int = 5) -> Splits:
    """Write the image folder `birds`, each image with other bytes, and load it."""
    for split in ("train", "val"):
        for name in ("crow", "tit"):
            for number in range(images):
                put(root / "birds", f"{split}/{name}/{number}.jpg")
                (root / f"birds/{split}/{name}/{number}.jpg").write_bytes(photo() + f"{split} {name} {number}".encode())
    return load(root)


def load(root: Path, **more: tuple[str, ...]) -> Splits:
    return load_splits("birds", DataConfig(root=str(root), **more))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """The pack of `birds`, in a folder of its own, in several files per split."""
    splits = fill(tmp_path / "data")
    write_pack(splits, tmp_path / "packs/birds.pack", silent, file_bytes=3000)
    return tmp_path / "packs/birds.pack"


@pytest.mark.parametrize("name", [name for name in TREES if not name.startswith("cifar")])
def test_pack_has_the_digest_and_the_bytes_of_the_folder(tmp_path: Path, name: str) -> None:
    make(name, tmp_path / "data")
    data = DataConfig(root=str(tmp_path / "data"), subsets=(name,))
    splits = load_splits(name, data)
    words = ["data", "pack", name, "--to", str(tmp_path / "packs"), f"data.root={data.root}", f"data.subsets=[{name}]"]
    assert main(words) == 0
    with pytest.raises(UserError, match=r"data\.subsets"):
        load_splits(name, DataConfig(root=str(tmp_path / "packs")))
    found = load_splits(name, replace(data, root=str(tmp_path / "packs")))
    for split_name, split in splits.items():
        same = found[split_name]
        assert (same.digest, same.left_out, same.comparable) == (split.digest, split.left_out, split.comparable)
        for index in range(len(split)):
            assert same.content(index) == (split.folder / split.name(index)).read_bytes()
            for fast in (False, True):
                assert (same.read(index, fast) == split.read(index, fast)).all()


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_dataset_whose_images_are_not_files_is_not_packed(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "cifar10":
        make(name, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    words = ["data", "pack", name, f"data.root={tmp_path}", "--to", str(tmp_path), "data.subsets=[cifar10]"]
    assert main(words) == 2
    assert "nothing to pack" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_packing_twice_gives_the_same_bytes(tmp_path: Path, packed: Path) -> None:
    write_pack(load(tmp_path / "data"), tmp_path / "again/birds.pack", silent, file_bytes=3000)
    assert content(tmp_path / "again/birds.pack") == content(packed)
    assert len(content(packed)) > 5, "several files per split"


def test_tar_in_a_pack_holds_the_files_with_their_names(tmp_path: Path) -> None:
    fill(tmp_path / "data")
    put(tmp_path / "data/birds", f"train/crow/{'long' * 40}.jpg", os.fsdecode(b"train/tit/\xe9.jpg"))
    write_pack(load(tmp_path / "data"), tmp_path / "birds.pack", silent)
    assert load(tmp_path)["trainval"].digest == load(tmp_path / "data")["trainval"].digest
    subprocess.run(["tar", "xf", tmp_path / "birds.pack/trainval-00000.tar", "-C", tmp_path], check=True)
    subprocess.run(["diff", "-r", tmp_path / "train", tmp_path / "data/birds/train"], check=True)


def test_pack_beside_the_folder_is_read_first_and_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path)
    assert main(["data", "pack", "birds", f"data.root={tmp_path}"]) == 0
    assert load(tmp_path)["test"].folder == tmp_path / "birds.pack"
    assert own_datasets(DataConfig(root=str(tmp_path))) == ["birds"]
    main(["data", "list", f"data.root={tmp_path}"])
    assert f"{tmp_path}/birds.pack: 10 + 10 images" in capsys.readouterr().out
    assert load_splits("birds", DataConfig(folders={"birds": f"{tmp_path}/birds.pack"}))["test"].members is not None


def test_dataset_that_was_packed_before_is_kept_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    splits = fill(tmp_path)
    write_pack(splits, tmp_path / "birds.pack", silent)
    before, said = content(tmp_path / "birds.pack"), []
    write_pack(splits, tmp_path / "birds.pack", said.append)
    assert "nothing to do" in said[0]
    put(tmp_path / "birds", "train/crow/new.jpg")
    with pytest.raises(UserError, match=r"other trainval images or labels.*Delete it, and pack again"):
        write_pack(load_splits("birds", DataConfig(root=str(tmp_path)), packs=False), tmp_path / "birds.pack", silent)
    assert content(tmp_path / "birds.pack") == before


KILLED = """
import os, signal, sys
from pathlib import Path
from trex.config.schema import DataConfig
from trex.datasets.pack import write_pack
from trex.datasets.registry import load_splits
def say(text):
    if "comparing" in text:
        os.kill(os.getpid(), signal.SIGKILL)
write_pack(load_splits("birds", DataConfig(root=sys.argv[1])), Path(sys.argv[1], "birds.pack"), say, 3000)
"""


def test_killed_packing_leaves_no_pack_and_is_begun_again(tmp_path: Path) -> None:
    splits = fill(tmp_path)
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path])
    assert killed.returncode == -signal.SIGKILL
    assert place("birds", DataConfig(root=str(tmp_path))) == tmp_path / "birds"
    assert own_datasets(DataConfig(root=str(tmp_path))) == ["birds"]
    unfinished = sorted(path.name for path in tmp_path.glob(".unfinished-*/*"))
    assert "index.trex" in unfinished, "it was killed in the last moment"
    write_pack(splits, tmp_path / "birds.pack", silent)
    assert not [*tmp_path.glob(".unfinished-*")]
    assert sorted(content(tmp_path / "birds.pack")) == ["index.trex", "test-00000.tar", "trainval-00000.tar"]


def test_two_processes_do_not_write_the_same_pack(tmp_path: Path) -> None:
    splits = fill(tmp_path)
    folder = tmp_path / ".unfinished-birds.pack.part"
    folder.mkdir()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "mine").touch()
        with pytest.raises(UserError, match="another process is writing this pack"):
            write_pack(splits, tmp_path / "birds.pack", silent)
        assert (folder / "mine").exists()


def test_image_that_cannot_be_read_ends_the_packing_and_leaves_nothing(tmp_path: Path) -> None:
    splits = fill(tmp_path)
    (tmp_path / "birds/val/tit/3.jpg").unlink()
    with pytest.raises(ImageFault, match=r"val/tit/3\.jpg: cannot be read"):
        write_pack(splits, tmp_path / "birds.pack", silent)
    assert [path.name for path in tmp_path.iterdir()] == ["birds"]


def test_disk_without_space_is_noticed_before_an_image_is_read(tmp_path: Path) -> None:
    splits = fill(tmp_path / "data", images=30)
    first = tmp_path / "data/birds/train/crow/0.jpg"
    first.unlink()
    first.mkdir()  # has a size, and cannot be read
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        disk.fill(leave=65536)
        with pytest.raises(Unwritable, match="disk full"):
            write_pack(splits, disk.folder / "birds.pack", silent)
        assert [path.name for path in disk.folder.iterdir()] == ["filler"]


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda pack: flip(pack / "index.trex", 200), r"index\.trex: damaged.*another SHA-256.*Copy the pack again"),
        (lambda pack: os.truncate(pack / "index.trex", 900), r"index\.trex: damaged.*another SHA-256"),
        (lambda pack: os.truncate(pack / "index.trex", 3), r"index\.trex: damaged.*does not begin with"),
        (lambda pack: os.truncate(pack / "test-00000.tar", 512), r"test-00000\.tar: damaged.*it has 512 bytes"),
        (lambda pack: (pack / "test-00000.tar").unlink(), r"test-00000\.tar: cannot be read \(No such file"),
    ],
)
def test_damaged_pack_is_one_error_that_names_the_file(
    packed: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(packed)
    with pytest.raises(UserError, match=message):
        load(packed.parent)


def test_changed_byte_in_an_image_is_found_when_the_image_is_read(packed: Path) -> None:
    split = load(packed.parent)["test"]
    flip(packed / "test-00000.tar", int(split.members.places[1]["offset"]) + 700)  # the decoder would not notice it
    assert split.read(0).shape == (32, 48, 3)
    with pytest.raises(ImageFault, match=r"test-00000\.tar: val/crow/1\.jpg: .*not those that") as fault:
        split.read(1)
    assert fault.value.broken
    assert main(["data", "check", "birds", "--processes", "1", f"data.root={packed.parent}"]) == 2


def test_file_that_is_cut_off_after_the_start_is_named(packed: Path) -> None:
    split = load(packed.parent)["test"]
    os.truncate(packed / "test-00000.tar", 1000)
    with pytest.raises(ImageFault, match=r"test-00000\.tar: .*it has 1000 bytes") as fault:
        split.read(0)
    assert not fault.value.broken, "data.broken_images=skip must not leave it out"


@pytest.mark.parametrize("name", ["/etc/passwd", "../elsewhere.tar", ".."])
def test_index_that_names_a_file_outside_the_pack_is_refused(packed: Path, name: str) -> None:
    splits = from_bytes((packed / "index.trex").read_bytes())
    members = splits["test"].members
    files = (DataFile(Path(name), members.files[0].size, ""), *members.files[1:])
    splits["test"] = replace(splits["test"], members=replace(members, files=files))
    (packed / "index.trex").write_bytes(to_bytes(splits))
    with pytest.raises(UserError, match="expected a name without a folder"):
        load(packed.parent)


@pytest.mark.parametrize("key", ["file", "offset", "stored"])
def test_index_with_an_image_outside_its_file_is_refused(packed: Path, key: str) -> None:
    splits = from_bytes((packed / "index.trex").read_bytes())
    places = splits["test"].members.places.copy()
    places[key][2] = 60000
    splits["test"] = replace(splits["test"], members=replace(splits["test"].members, places=places))
    (packed / "index.trex").write_bytes(to_bytes(splits))
    with pytest.raises(UserError, match=r"index\.trex: damaged"):
        load(packed.parent)
