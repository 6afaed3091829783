"""Which code this process runs: that of a checkout, of an installed package, or a copy in the run folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import trex
from jobs import environment, programs
from trex.records.base import RecordError
from trex.records.code import Code
from trex.records.run_dir import RunDir

_PACKAGES = ("jobs", "trex")


def code_of_this_process(run: RunDir) -> Code:
    """Return commit and copy of the code of this process. For a copy, what its submission recorded about it."""
    folder = Path(trex.__file__).resolve().parents[1]
    if folder.parent != run.code.resolve():
        return _of_checkout(folder)
    try:
        return Code.read(run.origin_of_code(folder.name))
    except (FileNotFoundError, RecordError):
        return Code(folder.name, None, modified=False)


def record_origin(run: RunDir, copy: str) -> None:
    """Record next to a copy of the code of this process which commit it is.

    Raises:
        OSError: if the file cannot be written.
    """
    replace(code_of_this_process(run), copy=copy).write(run.origin_of_code(copy))


def _of_checkout(folder: Path) -> Code:
    """Return the commit of the packages in `folder`. None if git does not track them there, as in site-packages."""
    tracked = _git(folder, "ls-files", "--error-unmatch", *(f"{name}/__init__.py" for name in _PACKAGES))
    about = _git(folder, "status", "--porcelain=v2", "--branch", *_PACKAGES) if tracked.ok else tracked
    lines = about.stdout.splitlines() if about.ok else []
    commits = [line.split()[-1] for line in lines if line.startswith("# branch.oid ")]
    if not commits or commits[0] == "(initial)":
        return Code(None, None, modified=False)
    return Code(None, commits[0], modified=any(not line.startswith("#") for line in lines))


def _git(folder: Path, *words: str) -> programs.Completed:
    variables = {name: value for name, value in environment.variables().items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    return programs.run(command, timeout=10, env=variables)
