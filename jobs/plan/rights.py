"""Keeps other users out of a run: nobody else may replace the code that its jobs execute, or their job files.

docs/adr/0026-who-may-write-into-a-run.md says what is protected and what is not.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from trex.errors import UserError
from trex.records.run_dir import RunDir

#: What only the owner of a file may do to it.
_WRITE = stat.S_IWGRP | stat.S_IWOTH


def keep_own() -> None:
    """Let nobody else write the files and folders that this process and its children create, whatever the umask.

    A batch script does the same.
    """
    os.umask(os.umask(_WRITE) | _WRITE)


def owner_of(path: Path) -> str:
    """Return the name of the owner of a file or folder, or else the number."""
    number = path.stat().st_uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def protect(run: RunDir) -> None:
    """Create the run folder and the folder of its job files, and take the right to write there from other users.

    Only the owner may read the job files. Prints a warning if other users may replace the run folder as a whole.

    Raises:
        UserError: if one of these folders, or that of the code, belongs to another user or is a link.
    """
    run.root.mkdir(parents=True, exist_ok=True)
    _take(run.root.resolve(), _WRITE)
    run.jobs.mkdir(exist_ok=True)
    _take(run.jobs, stat.S_IRWXG | stat.S_IRWXO)
    if run.code.is_symlink() or run.code.exists():
        _take(run.code, _WRITE)
    for folder in _replaceable(run.root.resolve()):
        sys.stderr.write(
            f"trex: warning: other users may write in {folder}, so they could replace {run.root} as a whole; jobs "
            f"refuse code that is not yours. Safer: chmod +t {folder}\n"
        )


def _take(folder: Path, denied: int) -> None:
    """Deny the rights in the mask `denied` to other users."""
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
        raise UserError(
            f"{folder}: is a link or belongs to another user: expected a folder of your own, because your jobs execute "
            f"what is in it. Move it away, or choose another folder with runs=…"
        )
    if not about.st_mode & denied:
        return
    with contextlib.suppress(OSError):  # not all file systems have modes; a local run executes nothing from there
        folder.chmod(stat.S_IMODE(about.st_mode) & ~denied)


def require_protected(run: RunDir) -> None:
    """Raise UserError if other users may write where the code of a submitted job is, because chmod has no effect."""
    for folder in (run.root, run.jobs, run.code):
        if folder.exists() and folder.stat().st_mode & _WRITE:
            raise UserError(
                f"{folder}: other users may write there, and chmod does not change that: expected a folder that only "
                f"you can write, because your jobs execute what is in it. Choose another folder with runs=…"
            )


def _replaceable(folder: Path) -> Iterator[Path]:
    """Yield the folders above `folder` in which other users may rename what is not theirs."""
    for parent in folder.parents:
        about = parent.stat()
        if about.st_mode & stat.S_ISVTX:
            continue
        if about.st_mode & stat.S_IWOTH or (about.st_mode & stat.S_IWGRP and not _is_own_group(about.st_gid)):
            yield parent


def _is_own_group(group: int) -> bool:
    """Return whether a group has no member but this user, as where each user has a group of the same name."""
    try:
        me, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:  # without a name; it may have any members
        return False
    return found.gr_name == me.pw_name and set(found.gr_mem) <= {me.pw_name}
