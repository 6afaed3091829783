"""Reads image folders that are in a tar or zip, without unpacking it: the same rules as for folders, the same names.

`train.tar` and `val.tar` (or `.zip`) in the dataset's folder take the place of `train/` and `val/`, and `<folder>.tar`
that of the folder. Only the members' headers are read; the images are read later, at their offsets.
"""

from __future__ import annotations

import stat
import struct
import tarfile
import zipfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from trex.datasets.imagefolder import Tree, is_foreign, read_image_folder, split_folders
from trex.datasets.members import PLACE, DataFile, Kind, Members
from trex.datasets.places import archive_at
from trex.datasets.record import Listing, SplitListing
from trex.errors import UserError
from trex.stand_ins import SIZE, stand_in

#: The most files and folders in an archive: twice those of the largest dataset; the most bytes of an extended header.
_MAX_ENTRIES = 5_000_000
_MAX_HEADER = 1 << 20
_NUMBERS = len(PLACE.names or ())
_COMPRESSION = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
#: What the readers of archives raise for damaged ones, beside OSError.
DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, EOFError, NotImplementedError, struct.error, OverflowError, ValueError,
    UnicodeError, IndexError, KeyError,
)  # fmt: skip


class TarEntry(tarfile.TarInfo):
    """A tar entry whose extended header, which tarfile reads into memory as a whole, has a size that occurs."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type not in (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE) and self.size > _MAX_HEADER:
            raise UserError(
                f"{Path(str(tar.name))}: an entry has a header of {self.size} bytes, expected at most {_MAX_HEADER}"
            )
        made: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        return made


def tar_entries(archive: Path, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The files and folders of an open tar. Raises UserError for a link or a device, and for too many entries."""
    number = 0
    while (entry := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined] # tarfile would keep a million entries in memory
        number += 1
        _require_count(archive, number)
        if not entry.isdir() and not entry.isreg():
            raise UserError(f"{archive}: contains a link or a device, {entry.name!r}: refused")
        yield entry


def zip_entries(archive: Path, opened: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    """The files and folders of an open zip. Raises UserError for links, devices, encrypted and too many entries."""
    for number, info in enumerate(opened.infolist(), start=1):
        _require_count(archive, number)
        if info.flag_bits & 1:
            raise UserError(f"{archive}: {info.filename!r} is encrypted: unpack it with its password by hand")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFDIR if info.is_dir() else stat.S_IFREG):
            raise UserError(f"{archive}: contains a link or a device, {info.filename!r}: refused")
        yield info


def inner_path(archive: Path, name: str) -> PurePosixPath:
    """The path of an entry, relative to the archive's folder. Raises UserError if it is outside that folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise UserError(f"{archive}: contains the path {name!r}, which is outside its folder: refused")
    return path


def _require_count(archive: Path, number: int) -> None:
    if number > _MAX_ENTRIES:
        raise UserError(f"{archive}: has more than {_MAX_ENTRIES} entries: refused")


def read_archives(folder: Path) -> Listing:
    """Read an image folder from `train.tar` and `val.tar`, or as a whole if `folder` is an archive.

    Raises:
        UserError: if an archive is compressed, damaged, or has an entry that is refused; or as `read_image_folder`.
    """
    tree = _ArchiveTree()
    if folder.is_file():
        tree.add(folder, folder)
        folder = _inner(tree, folder)
    else:
        for name in split_folders():
            if (archive := archive_at(folder / name)) is not None:
                tree.add(archive, folder / name)
                tree.folders.setdefault(str(folder), {})[name] = None
                _descend(tree, folder / name)
    listing = read_image_folder(folder, tree)
    return Listing(
        listing.classes, tree.with_members(folder, listing.trainval), tree.with_members(folder, listing.test), folder
    )


def _inner(tree: _ArchiveTree, root: Path) -> Path:
    """The folder in an archive that has the splits: its root, or the only folder there."""
    top = tree.folders.get(str(root), {})
    inner = [name for name, row in top.items() if row is None and not is_foreign(name)]
    return root / inner[0] if len(inner) == 1 and inner[0] not in split_folders() else root


def _descend(tree: _ArchiveTree, split: Path) -> None:
    """Let `split` be the folder of the same name in its archive, if that is the only one there."""
    top = tree.folders.get(str(split), {})
    folders = [name for name, row in top.items() if row is None and not is_foreign(name)]
    inside = f"{split}/{split.name}"
    if folders == [split.name] and any(row is None for row in tree.folders[inside].values()):
        for path in [path for path in tree.folders if path == inside or path.startswith(f"{inside}/")]:
            tree.folders[str(split) + path.removeprefix(inside)] = tree.folders.pop(path)


class _Entry(NamedTuple):
    """A file or folder in an archive, as `os.DirEntry`."""

    name: str
    path: str
    folder: bool

    def is_dir(self) -> bool:
        return self.folder

    def is_file(self) -> bool:
        return not self.folder

    def is_symlink(self) -> bool:
        return False


@dataclass
class _ArchiveTree(Tree):
    """The folders in archives: for each path, its entries with the row of a file in `places`, None for a folder."""

    folders: dict[str, dict[str, int | None]] = field(default_factory=dict)
    files: list[DataFile] = field(default_factory=list)
    places: array[int] = field(default_factory=lambda: array("q"))  #: the numbers of `PLACE`, one file after the other

    def entries(self, folder: str) -> Iterator[Any]:
        for name, row in self.folders.get(folder, {}).items():
            yield _Entry(name, f"{folder}/{name}", row is None)

    def identity(self, folder: str) -> object:
        return folder

    def around(self, folder: str) -> frozenset[object]:
        return frozenset({folder})

    def is_dir(self, path: Path) -> bool:
        return str(path) in self.folders

    def add(self, archive: Path, at: Path) -> None:
        """Add the content of an archive as the folder `at`."""
        _require_readable(archive)
        try:
            about = archive.stat()
            self.files.append(DataFile(archive.absolute(), about.st_size, str(about.st_mtime_ns)))
            self.folders.setdefault(str(at), {})
            if zipfile.is_zipfile(archive) and archive.suffix.lower() == ".zip":
                self._add_zip(archive, at)
            else:
                self._add_tar(archive, at)
        except DAMAGED as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise UserError(f"{archive}: damaged, or no tar or zip ({reason}). Copy or download it again") from error

    def _add_tar(self, archive: Path, at: Path) -> None:
        with tarfile.open(archive, "r:", tarinfo=TarEntry) as tar:
            for entry in tar_entries(archive, tar):
                if entry.issparse():
                    raise UserError(f"{archive}: {entry.name!r} is a sparse file: make the tar without --sparse")
                place = (Kind.PLAIN, entry.offset_data, entry.size, entry.size, 0)
                self._add(archive, at, entry.name, None if entry.isdir() else place)

    def _add_zip(self, archive: Path, at: Path) -> None:
        kinds = {zipfile.ZIP_STORED: Kind.STORED, zipfile.ZIP_DEFLATED: Kind.DEFLATED}
        with zipfile.ZipFile(archive) as opened:
            for info in zip_entries(archive, opened):
                if info.compress_type not in kinds:
                    raise UserError(
                        f"{archive}: {info.filename!r} is compressed in another way than deflate: make the zip again "
                        f"with `zip -0`, which stores images as they are"
                    )
                place = (kinds[info.compress_type], info.header_offset, info.compress_size, info.file_size, info.CRC)
                self._add(archive, at, info.filename, None if info.is_dir() else place)

    def _add(self, archive: Path, at: Path, name: str, place: tuple[int, ...] | None) -> None:
        path = inner_path(archive, name)
        folder = str(at)
        if not path.parts and place is not None:
            raise UserError(f"{archive}: contains a file without a name: refused")
        for part in path.parts if place is None else path.parts[:-1]:
            if self.folders.setdefault(folder, {}).setdefault(part, None) is not None:
                raise UserError(f"{archive}: contains {name!r} inside another file: refused")
            folder = f"{folder}/{part}"
        entries = self.folders.setdefault(folder, {})
        if place is not None:
            if path.name in entries:
                raise UserError(f"{archive}: contains {name!r} twice: refused")
            if max(place[2:4]) >> 32:
                raise UserError(f"{archive}: {name!r} is too large for an image")
            entries[path.name] = len(self.places) // _NUMBERS
            self.places.extend((len(self.files) - 1, *place))

    def with_members(self, folder: Path, listed: SplitListing) -> SplitListing:
        """The images of a split, with their places in the archives."""
        rows = []
        for name in listed.names:
            parent, _, file = f"{folder}/{name}".rpartition("/")
            rows.append(self.folders[parent][file])
        numbers = np.frombuffer(self.places, np.int64).reshape(-1, _NUMBERS)[np.array(rows, np.int64)]
        places = np.zeros(len(rows), PLACE)
        for column, key in enumerate(PLACE.names or ()):
            places[key] = numbers[:, column]
        return listed._replace(members=Members(tuple(self.files), places))


def _require_readable(archive: Path) -> None:
    """Raise UserError if the archive cannot be read, is compressed, or only stands for another file."""
    try:
        with archive.open("rb") as file:
            start = file.read(SIZE)
    except OSError as error:
        raise UserError(f"{archive}: cannot be read ({error.strerror})") from error
    for magic, kind in _COMPRESSION.items():
        if start.startswith(magic):
            raise UserError(
                f"{archive}: is compressed with {kind}, so single images cannot be read from it: decompress it to a "
                f"plain .tar (images hardly become larger), or unpack it"
            )
    if found := stand_in(start):
        raise UserError(f"{archive}: {found}")
