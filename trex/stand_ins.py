"""Recognizes what often is in the place of a file: a pointer to it, or the page of a site that refused it."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

SIZE = 256  #: bytes from the start of a file that are enough

_LFS = b"version https://git-lfs.github.com/spec/"
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")


def stand_in(start: bytes) -> str:
    """What the file with this start is instead of itself, and what to do about it; empty if it seems to be itself."""
    if start.startswith(_LFS):
        return "a git-lfs pointer: the file itself was never downloaded. Run `git lfs pull` in its repository"
    if start.startswith((b"/annex/objects/", b"../.git/annex/")) or b"/annex/objects/" in start.partition(b"\n")[0]:
        return "a git-annex pointer: the file itself was never downloaded. Run `git annex get` in its repository"
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return (
            "an HTML or XML page, as a site sends it instead of a file that needs a login or does not exist. Download "
            "the file again, and look at it in a browser first"
        )
    return ""


def stand_in_at(path: Path) -> str:
    """As `stand_in`, of the file `path`. Raises OSError if it cannot be read."""
    require_file(path)
    with path.open("rb") as file:
        return stand_in(file.read(SIZE))


def require_file(path: Path) -> None:
    """Raise OSError unless `path` is a file: a pipe may be waited for without end, and a device may have no end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is a folder, a pipe or a device, expected a file", str(path))


def read_file(path: Path) -> bytes:
    """Return the content of a file. Raises OSError if it cannot be read, or is none (`require_file`)."""
    require_file(path)
    return path.read_bytes()
