"""What a file system has left, what its refusal of a write means, and a run folder that is gone.

Every file of a run is written through trex/files.py or this module, and `unwritable` puts each error of a write into
words: what happened, on which file system, how much it has free, how much is needed, and what to do.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trex.errors import Unwritable

#: What the error numbers mean that only a file system returns, and what to do.
_REFUSALS = {
    errno.ENOSPC: ("disk full: cannot write", "Delete files there"),
    errno.EDQUOT: (
        "quota exceeded: cannot write",
        "`quota -s`, or `lfs quota` on Lustre, shows your limit, of which the free space says nothing. Delete files of "
        "yours, or ask for a higher quota",
    ),
    errno.EROFS: ("read-only file system: cannot write", "Ask the administrators of this machine why it is read-only"),
    errno.EFBIG: ("file too large: cannot write", "`ulimit -f` shows the largest file that is allowed here: raise it"),
    errno.EIO: ("input/output error at", "The disk or its server failed: ask the administrators of this machine"),
    errno.ESTALE: ("stale file handle at", "The folder was deleted, or its server restarted: look whether it is there"),
}
_NO_INODES = ("no inodes left: cannot write", "There are too many files: delete some")
#: Errors without a number: HDF5's have it in their message, and NumPy's say how much it could not write.
_NUMBER = re.compile(r"errno = (\d+)")
_INCOMPLETE = re.compile(r"\d+ requested and \d+ written")

#: The run folders that `expect_folder` was called with.
_expected: set[Path] = set()


@dataclass(frozen=True)
class Space:
    """What a file system has left for this user. Quotas are not visible here."""

    mount: Path  #: the folder where it is mounted
    free: int | None  #: bytes; None: it does not say
    free_inodes: int | None  #: how many files and folders can be created; None: no fixed number
    read_only: bool

    @classmethod
    def at(cls, path: Path) -> Space:
        """Look at the file system of `path`, or of the first folder above it that exists. Raises OSError."""
        found = next(parent for parent in (path, *path.parents) if parent.exists())
        about = os.statvfs(found)
        mount = next(parent for parent in (found, *found.parents) if os.path.ismount(parent))
        free_inodes = about.f_favail if about.f_files else None
        free = about.f_bavail * about.f_frsize if about.f_blocks else None
        return cls(mount, free, free_inodes, bool(about.f_flag & os.ST_RDONLY))

    def __str__(self) -> str:
        """Return one sentence without its full stop."""
        free = "an unknown amount" if self.free is None else in_bytes(self.free)
        inodes = "" if self.free_inodes is None else f" and {self.free_inodes} free inodes"
        return f"the file system {self.mount} has {free} free{inodes}"

    def lacks(self, needed: int, inodes: int = 1) -> bool:
        """Whether it certainly has no place for `needed` bytes in `inodes` new files and folders."""
        few_inodes = self.free_inodes is not None and self.free_inodes < inodes
        return self.read_only or few_inodes or (self.free is not None and self.free < needed)


def in_bytes(size: float) -> str:
    """Format a number of bytes: `812 B`, `4.1 kB`, `512.0 MB`, `1.2 TB`."""
    if size < 1000:
        return f"{size:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"


def require_space(folder: Path, needed: int, inodes: int = 1) -> None:
    """Raise OSError if the file system of `folder` certainly has no place for `needed` bytes in `inodes` new files.

    A write that must fail is not begun, because until it fails it takes the last bytes from the other files of a run.
    """
    if Space.at(folder).lacks(needed, inodes):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def is_refusal(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that a file system takes no more data or fails."""
    return any(_number(one) in _REFUSALS for one in _causes(error))


def unwritable(error: BaseException, path: Path, needed: int = 0) -> Unwritable:
    """Return the error for the user when a write below `path` failed.

    Args:
        error: what the write raised.
        path: the file, or the folder in which it would be; the error's own file name is preferred.
        needed: how many bytes had to be written; 0: not known.
    """
    named = next((one.filename for one in _causes(error) if isinstance(one, OSError) and one.filename), None)
    where = path / os.fsdecode(named) if isinstance(named, str | bytes) else path
    number = next((number for number in map(_number, _causes(error)) if number is not None), None)
    try:
        space = Space.at(where)
    except OSError:
        space = None
    what, advice = _meaning(number, space, needed) or (f"{_words(error)}: cannot write", "Fix the cause")
    room = f"{str(space)[0].upper()}{str(space)[1:]}" if space else "Its file system does not answer"
    need = f", and {in_bytes(needed)} are needed" if needed else ""
    return Unwritable(f"{what} {where}. {room}{need}. {advice}.")


def _words(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _meaning(number: int | None, space: Space | None, needed: int) -> tuple[str, str] | None:
    """Return what an error number means and what to do. Without a number, the file system's state decides."""
    if space is not None and number in (None, errno.ENOSPC):
        if space.read_only:
            return _REFUSALS[errno.EROFS]
        if space.free_inodes == 0:
            return _NO_INODES
        if space.lacks(max(needed, 1)):
            return _REFUSALS[errno.ENOSPC]
    return None if number is None else _REFUSALS.get(number)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the errors that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _number(error: BaseException) -> int | None:
    """Return the error number of the operating system, or None."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := _NUMBER.search(str(error))):
        return int(found[1])
    return errno.ENOSPC if number is None and _INCOMPLETE.search(str(error)) else number


def expect_folder(folder: Path) -> None:
    """Declare that a run folder exists. From now on, `make_folder` never creates it or a folder above it.

    Raises:
        Unwritable: if it does not exist.
    """
    if not folder.is_dir():
        raise gone(folder)
    _expected.add(folder)


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, if they do not exist.

    Raises:
        Unwritable: if the run folder that it would be in was deleted or moved (see `expect_folder`). A part of a run
            that a person deleted would only be in the way.
        OSError: if it cannot be created.
    """
    for run in _expected:
        if folder == run or run in folder.parents:
            if not run.is_dir():
                raise gone(run)
            for part in reversed([one for one in (folder, *folder.parents) if run in one.parents]):
                try:
                    part.mkdir(exist_ok=True)
                except FileNotFoundError as error:
                    raise gone(run) from error
            return
    folder.mkdir(parents=True, exist_ok=True)


def gone(run: Path) -> Unwritable:
    """Return the error for a run folder that no longer exists."""
    return Unwritable(
        f"{run}: this run folder is gone: it was deleted or moved while a job of it was running or waiting. Nothing is "
        f"created there. If it was moved, start the job again from its new place."
    )
