"""Writes files atomically: if the process is killed at any moment, the file has either the old or the new content."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trex.stand_ins import require_file, stand_in_at
from trex.storage import make_folder

#: How file systems without modes (CIFS, FUSE) answer when a mode is set.
_NO_MODES = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
#: How file systems that cannot sync a folder answer. A file that cannot be synced is always an error.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR}
#: Every unfinished file has this in its name. Readers never open such a file; `remove_leftovers` deletes them.
TEMPORARY = ".unfinished-"

_checks: list[Callable[[], None]] = []


@contextlib.contextmanager
def checked_writes(check: Callable[[], None]) -> Iterator[None]:
    """During the block, every write of this process calls `check` first, which raises an error if it must not write."""
    _checks.append(check)
    try:
        yield
    finally:
        _checks.remove(check)


def require_may_write() -> None:
    """Call the checks of `checked_writes`. A function that changes files without this module must call it before."""
    for check in _checks:
        check()


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `target`. At the end of the block the file is synced and renamed.

    If the block raises, `target` is unchanged and the temporary file is deleted. On a file system without modes the
    file has the mode that the file system gives it.
    """
    require_may_write()
    make_folder(target.parent)
    with _named(target):
        handle, name = tempfile.mkstemp(prefix=TEMPORARY, suffix=f"-{target.name}", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with _named(target):
            yield temporary
            set_mode(temporary, 0o666 & ~_umask())
            sync(temporary)
            require_may_write()
            move(temporary, target)
            sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _named(target: Path) -> Iterator[None]:
    """Let errors of the block name `target`: those of a write name no file, and others the temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and (error.filename is None or TEMPORARY in str(error.filename)):
            error.filename = str(target)
        raise


def move(source: Path, target: Path) -> None:
    """Rename a file or folder. A file at `target` is replaced.

    NFS sends a request again if the answer was lost. The second rename then fails although the first one was done, so
    an error counts only if `target` is not what `source` was.
    """
    inode = source.lstat().st_ino
    try:
        os.replace(source, target)  # noqa: PTH105 - a Path would do the same
    except OSError:
        with contextlib.suppress(OSError):
            if target.lstat().st_ino == inode:
                return
        raise


def write_text(target: Path, text: str) -> None:
    """Write `text` to `target`, atomically and durably."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write `value` as JSON, atomically and durably. Raises ValueError for NaN and infinities, which JSON lacks."""
    write_text(target, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises ValueError, which names the file, if the content is not JSON or nested too deeply."""
    if found := stand_in_at(path):
        raise ValueError(f"{path}: {found}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from error


def append_line(path: Path, line: str) -> None:
    """Append `line` and a newline in one write.

    If a killed writer left the last line incomplete, that line is ended first, so that only it is damaged. If the disk
    is full, an incomplete line is taken back.

    Raises:
        OSError: if the line cannot be written completely.
    """
    require_may_write()
    make_folder(path.parent)
    with path.open("ab+", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        is_complete = end == 0 or os.pread(file.fileno(), 1, end - 1) == b"\n"
        data = ("" if is_complete else "\n").encode() + line.encode() + b"\n"
        written = 0
        try:
            while written < len(data):  # the second write raises the error that made the first one incomplete
                written += file.write(data[written:])
        except OSError as error:
            error.filename = str(path)
            if os.fstat(file.fileno()).st_size == end + written:  # no other process has appended since
                os.ftruncate(file.fileno(), end)
            raise


def set_mode(path: Path, mode: int) -> None:
    """Set the mode of a file or folder. On a file system without modes, it keeps the one that the file system gives."""
    with _tolerated(_NO_MODES):
        path.chmod(mode)


def sync(path: Path) -> None:
    """Flush a file's or a folder's content to the disk, a folder only if its file system can.

    Raises:
        OSError: if that fails.
    """
    with _tolerated(_NO_FOLDER_SYNC if path.is_dir() else set()):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    require_file(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_leftovers(folder: Path) -> None:
    """Delete the unfinished files that killed writers left in `folder`. Call it only while holding the run's lock."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _tolerated(errors: set[int]) -> Iterator[None]:
    """Ignore an OSError with one of these error numbers."""
    try:
        yield
    except OSError as error:
        if error.errno not in errors:
            raise


def _umask() -> int:
    """Return the umask of this process.

    os.umask changes it for a moment, in which another thread may create a file that everybody can write.
    """
    with contextlib.suppress(OSError):
        if found := re.search(r"^Umask:\s*([0-7]+)$", Path("/proc/self/status").read_text(), re.MULTILINE):
            return int(found[1], 8)
    mask = os.umask(0)
    os.umask(mask)
    return mask
