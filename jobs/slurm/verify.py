"""Checks in a job, before any code of the run is imported, that this code is the one that was submitted.

    python -I -S - RUN DIGEST < verify.py

The batch script contains the text of this file. Slurm copies the script when the job is submitted, so the check cannot
be replaced together with the code. It uses only the standard library. docs/adr/0026-who-may-write-into-a-run.md
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path


def sources(package: str, folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files of a package, sorted, with their paths in a copy. Compiled files are left out."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path, f"{package}/{path.relative_to(folder).as_posix()}"


def digest(packages: dict[str, Path]) -> str:
    """Return the SHA-256 of the source files of packages, which are given by name, with the folder of each."""
    found = hashlib.sha256()
    for package, folder in packages.items():
        for path, name in sources(package, folder):
            found.update(f"{name}\0{path.stat().st_size}\0".encode())
            found.update(path.read_bytes())
    return found.hexdigest()


def of_others(path: Path) -> str:
    """Return why other users could change a file or folder, as the end of a sentence; empty if they cannot."""
    try:
        about = path.lstat()
    except FileNotFoundError:  # a compiled file that another job has just replaced
        return ""
    if about.st_uid != os.geteuid():
        return "belongs to another user"
    if not (stat.S_ISDIR(about.st_mode) or stat.S_ISREG(about.st_mode)):
        return "is neither a file nor a folder"
    return "can be written by other users" if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else ""


def problem(run: Path, expected: str) -> str:
    """Return what is wrong with the code of a run, as a sentence; empty if only its owner could write it."""
    code = run / "code" / expected[:12]
    try:
        for path in (run.resolve(), run / "jobs", code.parent, code, *code.rglob("*")):
            if why := of_others(path):
                return f"{path} {why}"
        names = sorted(path.name for path in code.iterdir())
        if names != ["jobs", "trex"] or digest({name: code / name for name in names}) != expected:
            return f"{code} was changed after it was made"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return ""


if __name__ == "__main__":
    if found := problem(Path(sys.argv[1]), sys.argv[2]):
        print(f"not started: {found}: expected the code of the submission, which only you can write.", file=sys.stderr)
        print("Find out who did that. Then move that file or folder away, and submit again.", file=sys.stderr)
        sys.exit(2)
