"""Packs: a dataset as a few large files, for file systems that cannot hold, or slowly read, a million small ones.

A pack is a folder `<dataset>.pack` with `index.trex`, the lists of both splits (trex/datasets/splits_file.py), and tar
files with the unchanged bytes of the images. Packing the same images twice gives the same bytes. The images of any
reader can be packed, because a pack holds what the reader returned, and not the layout of its folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tarfile
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

from trex.datasets.members import PLACE, DataFile, Kind, Members
from trex.datasets.places import INDEX, is_pack
from trex.datasets.record import Listing, SplitListing
from trex.datasets.split import Split, SplitName
from trex.datasets.splits_file import from_bytes, to_bytes
from trex.errors import UserError
from trex.files import TEMPORARY, move, sha256, sync
from trex.storage import in_bytes, make_folder, require_space, unwritable

T = TypeVar("T")
Say = Callable[[str], None]  #: prints one line of progress
Splits = Mapping[SplitName, Split]

FILE_BYTES = 8 << 30  #: a new file begins after so many bytes
_THREADS = 16  #: that read images: a parallel file system answers each slowly, but many at once
_AHEAD = 8 * _THREADS  #: images that are read before they are written
_SECONDS = 5.0  #: between two lines of progress
_BLOCK = tarfile.BLOCKSIZE


def read_pack(folder: Path) -> Listing:
    """Read the lists of a pack. Raises UserError, with what to do, if it is damaged or a file is missing."""
    try:
        splits = from_bytes((folder / INDEX).read_bytes())
        listed = {name: _listed(folder, split) for name, split in splits.items()}
        problem = splits["test"].problem
        return Listing(splits["test"].classes, listed["trainval"], listed["test"], folder=folder, problem=problem)
    except ValueError as error:
        raise _damaged(folder / INDEX, str(error)) from error
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be read ({error.strerror})") from error


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path}: damaged, or of another version ({why}). Copy the pack again, or pack the dataset again")


def _listed(folder: Path, split: Split) -> SplitListing:
    assert split.members is not None
    files = []
    for file in split.members.files:
        name = str(file.path)
        if name in ("", ".", "..") or "/" in name:
            raise ValueError(f"it names the file {name!r}, expected a name without a folder")
        path = folder.absolute() / name
        if (found := path.stat().st_size) != file.size:
            raise _damaged(path, f"it has {found} bytes, expected {file.size}")
        files.append(file._replace(path=path))
    members = replace(split.members, files=tuple(files))
    names = [split.name(index) for index in range(len(split))]
    return SplitListing(names, split.labels.tolist(), left_out=split.left_out, members=members)


def write_pack(splits: Splits, target: Path, say: Say, file_bytes: int = FILE_BYTES) -> None:
    """Write the splits as the pack `target`, completely or not at all, and read it back. An equal pack is kept.

    Args:
        splits: both splits. Their images must be files of their own, or in an archive.
        target: the folder; it must not exist, unless it is a pack of the same lists.
        say: prints progress.
        file_bytes: a new file begins after so many bytes.

    Raises:
        UserError: if `target` is something else, the dataset's images are not files, another process writes the pack,
            or what was written is not what is read back.
        ImageFault: if an image cannot be read.
        Unwritable: if there is no space.
    """
    name = splits["test"].dataset
    if any(split.images is not None or split.folder is None for split in splits.values()):
        raise UserError(f"{name}: its images are not files of their own, so there is nothing to pack")
    if target.exists():
        _require_same(splits, target)
        say(f"{target}: is there already, with the same lists; nothing to do")
        return
    with _unfinished(target) as folder, ThreadPoolExecutor(_THREADS) as pool:
        try:
            _write(splits, folder, target, pool, say, file_bytes)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _write(splits: Splits, folder: Path, target: Path, pool: ThreadPoolExecutor, say: Say, file_bytes: int) -> None:
    say(f"{target.name}: looking at the sizes of {sum(map(len, splits.values()))} images")
    sizes = [size for split in splits.values() for size in _ahead(pool, split.size_of, range(len(split)))]
    needed = sum(sizes) + 2 * _BLOCK * len(sizes)
    try:
        require_space(target.parent, needed)
        progress = _Progress(target.name, len(sizes), sum(sizes), say)
        packed = {name: _pack_split(split, folder, pool, progress, file_bytes) for name, split in splits.items()}
        (folder / INDEX).write_bytes(to_bytes(packed))
        for path in folder.iterdir():
            sync(path)
    except OSError as error:
        raise unwritable(error, target.parent, needed) from error
    say(f"{target.name}: comparing what was written")
    for split in packed.values():
        assert split.members is not None
        for file in split.members.files:
            if sha256(folder / file.path) != file.version:
                raise UserError(f"{target.parent}: {file.path} differs from what was written: the disk or memory fails")
    _require_same(splits, folder)


def _require_same(splits: Splits, folder: Path) -> None:
    """Raise UserError unless `folder` is a pack whose lists have the digests of the splits."""
    if not is_pack(folder):
        raise UserError(f"{folder}: exists and is no pack. Choose another folder with --to, or delete it")
    found, dataset = read_pack(folder), splits["test"].dataset
    for name, split in splits.items():
        listed = found.trainval if name == "trainval" else found.test
        if Split.of(listed, dataset, name, found.classes, folder, "").digest != split.digest:
            raise UserError(
                f"{folder}: exists and has other {name} images or labels than {split.folder}. Delete it, and pack again"
            )


@contextlib.contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """Yield an empty folder, which becomes `target` at the end of the block and is deleted after an error."""
    folder = target.parent / f"{TEMPORARY}{target.name}.part"  # does not end as a pack does
    try:
        make_folder(folder)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise UserError(f"{folder}: belongs to another user. Choose another folder with --to")
        with (folder / "lock").open("w") as lock:
            _take(lock, folder)
            for path in folder.iterdir():
                if path.name != "lock":
                    path.unlink()  # of a process that was killed
            try:
                yield folder
                (folder / "lock").unlink()
                move(folder, target)
                sync(target.parent)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
    except OSError as error:
        raise unwritable(error, target.parent) from error


def _take(lock: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{folder}: another process is writing this pack") from None
    except OSError:
        return  # a file system without locks


def _pack_split(split: Split, folder: Path, pool: ThreadPoolExecutor, progress: _Progress, file_bytes: int) -> Split:
    """Write the images of a split, in order. Returns the split with their places."""
    places = np.zeros(len(split), PLACE)
    files: list[DataFile] = []
    with contextlib.ExitStack() as opened:
        file: _TarFile | None = None
        for index, content in enumerate(_ahead(pool, split.content, range(len(split)))):
            if file is None or file.size >= file_bytes:
                if file is not None:
                    files.append(file.finish())
                file = _TarFile(opened, folder / f"{split.split_name}-{len(files):05d}.tar")
            offset = file.add(split.name(index), content)
            places[index] = (len(files), Kind.CHECKED, offset, len(content), len(content), zlib.crc32(content))
            progress.add(len(content))
        assert file is not None, "a split has images"
        files.append(file.finish())
    return replace(split, folder=Path(), members=Members(tuple(files), places))


class _TarFile:
    """A tar that is written, with a digest of its bytes."""

    def __init__(self, opened: contextlib.ExitStack, path: Path) -> None:
        self._path, self._file, self._digest = path, opened.enter_context(path.open("xb")), hashlib.sha256()
        self.size = 0

    def add(self, name: str, content: bytes) -> int:
        """Add a file and return the offset of its content."""
        about = tarfile.TarInfo(name)
        about.size = len(content)
        self._write(about.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
        offset = self.size
        self._write(content)
        self._write(bytes(-len(content) % _BLOCK))
        return offset

    def finish(self) -> DataFile:
        self._write(bytes(2 * _BLOCK))
        self._file.close()
        return DataFile(Path(self._path.name), self.size, self._digest.hexdigest())

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self.size += len(content)


def _ahead(pool: ThreadPoolExecutor, function: Callable[[int], T], indices: Iterable[int]) -> Iterator[T]:
    """The results of `function`, in order, of which some are computed ahead."""
    waiting: deque[Future[T]] = deque()
    for index in indices:
        waiting.append(pool.submit(function, index))
        if len(waiting) == _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@dataclass
class _Progress:
    """Says from time to time how far the packing is."""

    name: str
    images: int
    bytes: int
    say: Say
    done: list[int] = field(default_factory=lambda: [0, 0])
    began: float = field(default_factory=time.monotonic)
    shown: float = field(default_factory=time.monotonic)

    def add(self, size: int) -> None:
        self.done = [self.done[0] + 1, self.done[1] + size]
        now = time.monotonic()
        if now - self.shown >= _SECONDS or self.done[0] == self.images:
            self.shown, (images, size) = now, tuple(self.done)
            rate = images / max(now - self.began, 1e-9)
            self.say(
                f"{self.name}: {images}/{self.images} images, {in_bytes(size)} of {in_bytes(self.bytes)}, "
                f"{rate:.0f} images/s, {(self.images - images) / rate:.0f} s left"
            )
