"""Image folders in a tar or zip are read as the folder is; entries that could do harm are refused."""

from __future__ import annotations

import io
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import main
from tests.datasets.conftest import photo, put
from tests.datasets.trees import make
from trex.config.schema import DataConfig
from trex.datasets.registry import load_splits
from trex.errors import UserError
from trex.images.decode import ImageFault
from trex.images.preprocessing import Geometry
from trex.loading.evaluation import evaluation_batches


def run(*words: str | Path, at: Path) -> None:
    subprocess.run(words, cwd=at, check=True)


def zipped(target: Path, folder: Path, method: int) -> None:
    with zipfile.ZipFile(target, "w", method) as file:
        for path in sorted(folder.rglob("*"), reverse=True):
            file.write(path, path.relative_to(folder.parent))


def both(program: Callable[[Path, Path], object]) -> Callable[[Path, Path], None]:
    def make_them(source: Path, target: Path) -> None:
        (target / "birds").mkdir()
        for split in ("train", "val"):
            program(source / "birds" / split, target / "birds" / split)

    return make_them


FORMS: dict[str, Callable[[Path, Path], object]] = {
    "tar of the folder": lambda source, target: run("tar", "cf", target / "birds.tar", "birds", at=source),
    "tar of its content": lambda source, target: run("tar", "cf", target / "birds.tar", ".", at=source / "birds"),
    "pax tar": lambda source, target: run("tar", "--format=pax", "-cf", target / "birds.tar", "birds", at=source),
    "stored zip": lambda source, target: zipped(target / "birds.zip", source / "birds", zipfile.ZIP_STORED),
    "deflated zip": lambda source, target: zipped(target / "birds.zip", source / "birds", zipfile.ZIP_DEFLATED),
    "tar per split": both(lambda split, at: run("tar", "cf", f"{at}.tar", split.name, at=split.parent)),
    "tar of classes per split": both(lambda split, at: run("tar", "cf", f"{at}.tar", ".", at=split)),
    "zip per split": both(lambda split, at: zipped(Path(f"{at}.zip"), split, zipfile.ZIP_DEFLATED)),
}  # fmt: skip


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `birds` with everything that is left out, and names that need long headers or are not ASCII."""
    root = tmp_path_factory.mktemp("source")
    long = "long" * 30
    for split in ("train", "val"):
        for name in ("crow", "tît"):
            names = (f"{number}.jpg" for number in range(4))
            put(root / "birds", *(f"{split}/{name}/{file}" for file in (*names, f"in/ner/{long}.JPG", ".hidden.jpg")))
            put(root / "birds", f"{split}/{name}/@eaDir/1.jpg", f"{split}/__MACOSX/x.jpg", f"{split}/loose.jpg")
            (root / f"birds/{split}/{name}/notes.txt").write_text("text")
            (root / f"birds/{split}/{name}/0.jpg").write_bytes(photo() + name.encode() + split.encode())
    return root


@pytest.mark.parametrize("form", FORMS)
def test_archive_has_the_digest_and_the_bytes_of_the_folder(tmp_path: Path, source: Path, form: str) -> None:
    FORMS[form](source, tmp_path)
    expected = load_splits("birds", DataConfig(root=str(source)))
    found = load_splits("birds", DataConfig(root=str(tmp_path)))
    for name, split in expected.items():
        assert (found[name].digest, found[name].left_out) == (split.digest, split.left_out)
        assert "1 image in no class folder" in split.left_out
        for index in range(len(split)):
            assert found[name].content(index) == split.content(index)
            assert (found[name].read(index, fast=True) == split.read(index, fast=True)).all()


def test_archive_that_data_folders_names_is_read_and_can_be_packed(tmp_path: Path, source: Path) -> None:
    run("tar", "cf", tmp_path / "some.tar", "birds", at=source)
    words = [f"data.folders.birds={tmp_path}/some.tar", "--to", str(tmp_path)]
    assert main(["data", "pack", "birds", *words]) == 0
    expected = load_splits("birds", DataConfig(root=str(source)))["test"]
    assert load_splits("birds", DataConfig(root=str(tmp_path)))["test"].digest == expected.digest
    assert main(["data", "check", "birds", "--processes", "1", words[0]]) == 0


def test_threads_and_loader_processes_read_the_same_file_at_once(tmp_path: Path, source: Path) -> None:
    run("tar", "cf", tmp_path / "birds.tar", "birds", at=source)
    splits = [load_splits("birds", DataConfig(root=str(root)))["trainval"] for root in (source, tmp_path)]
    indices = [*range(len(splits[0]))] * 20
    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(splits[1].content, indices)] == [splits[0].content(index) for index in indices]
    folder, archive = (
        [batch[0] for batch in evaluation_batches(split, range(len(split)), Geometry(18, 16), 3, workers=2)]
        for split in splits
    )
    assert all(bool((one == other).all()) for one, other in zip(folder, archive, strict=True))


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (entry("birds/train/crow/2.jpg", tarfile.SYMTYPE, "1.jpg"), "a link or a device"),
        (entry("birds/train/crow/2.jpg", tarfile.LNKTYPE, "birds/train/crow/1.jpg"), "a link or a device"),
        (entry("birds/train/crow/2.jpg", tarfile.CHRTYPE), "a link or a device"),
        (entry("/birds/train/crow/2.jpg"), "outside its folder"),
        (entry("birds/train/../crow/2.jpg"), "outside its folder"),
        (entry("birds/train/crow/1.jpg"), "twice"),
        (entry("birds/train/crow/1.jpg/2.jpg"), "inside another file"),
    ],
)
def test_entry_that_is_no_plain_file_in_the_folder_is_refused(
    tmp_path: Path, bad: tarfile.TarInfo, message: str
) -> None:
    with tarfile.open(tmp_path / "birds.tar", "w") as tar:
        for split in ("train", "val"):
            good = entry(f"birds/{split}/crow/1.jpg")
            good.size = len(photo())
            tar.addfile(good, io.BytesIO(photo()))
        tar.addfile(bad)
    with pytest.raises(UserError, match=rf"birds\.tar: contains .*{message}.*refused"):
        load_splits("birds", DataConfig(root=str(tmp_path)))


@pytest.mark.parametrize(
    ("ending", "mode"), [("tar.gz", "w:gz"), ("tgz", "w:gz"), ("tar", "w:xz"), ("tar.bz2", "w:bz2")]
)
def test_compressed_tar_is_refused_with_what_to_do(tmp_path: Path, source: Path, ending: str, mode: Any) -> None:
    with tarfile.open(tmp_path / f"birds.{ending}", mode) as archive:
        archive.add(source / "birds", "birds")
    with pytest.raises(UserError, match=rf"birds\.{ending}: is compressed with .*: decompress it to a plain \.tar"):
        load_splits("birds", DataConfig(root=str(tmp_path)))


def test_archive_that_is_cut_off_is_damaged(tmp_path: Path, source: Path) -> None:
    run("tar", "cf", tmp_path / "birds.tar", "birds", at=source)
    whole = (tmp_path / "birds.tar").read_bytes()
    split = load_splits("birds", DataConfig(root=str(tmp_path)))["test"]
    (tmp_path / "birds.tar").write_bytes(whole[: 20 * 512 + 10])
    with pytest.raises(UserError, match=r"birds\.tar: damaged, or no tar or zip"):
        load_splits("birds", DataConfig(root=str(tmp_path)))
    with pytest.raises(ImageFault, match=r"birds\.tar: .*it has 10250 bytes"):
        split.read(0)


def test_changed_byte_in_a_zip_is_found(tmp_path: Path, source: Path) -> None:
    FORMS["stored zip"](source, tmp_path)
    split = load_splits("birds", DataConfig(root=str(tmp_path)))["test"]
    content = (tmp_path / "birds.zip").read_bytes()
    place = int(split.members.places[0]["offset"]) + 1000
    (tmp_path / "birds.zip").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(ImageFault, match=r"birds\.zip: val/crow/0\.jpg: .*its bytes are not those"):
        split.read(0)


def test_tar_of_another_layout_says_that_only_image_folders_are_read(tmp_path: Path) -> None:
    make("dtd", tmp_path)
    run("tar", "cf", "dtd.tar", "dtd", at=tmp_path)
    (tmp_path / "dtd").rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"dtd\.tar is a file.*only for image folders.*trex data pack dtd"):
        load_splits("dtd", DataConfig(root=str(tmp_path)))
