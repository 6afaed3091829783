"""Checks in each process of a job, before code of the run is imported, that this code is the one that was submitted.

    python -I -S -c "$(cat verify.py)" RUN DIGEST NOTE FOLDER ARGUMENT ...

Then the process becomes `python ARGUMENT ...`, which imports the code of the run, in the working folder FOLDER, which a
launcher may have left. Otherwise it notes the reason in the file NOTE. The batch script contains the text of this file.
Slurm copies the script when the job is submitted, so the check cannot be replaced together with the code. It uses only
the standard library.
docs/adr/0026-who-may-write-into-a-run.md
"""

from __future__ import annotations

import contextlib
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


def unsuitable() -> str:
    """Return what the process lacks because of the launcher or the Python of the cluster file, as a sentence."""
    if sys.version_info < (3, 11):  # noqa: UP036 - that of a container may be older
        version = ".".join(map(str, sys.version_info[:2]))
        return f"{sys.executable} is Python {version}: expected 3.11 or newer; set `python` in the cluster file"
    if "SLURM_PROCID" not in os.environ:
        return "Slurm's variables are not set: expected a `launcher` that passes the environment on to Python"
    return ""


def main(run: Path, expected: str, note: str, folder: str, arguments: list[str]) -> None:
    """Check, then become the program of the job, or end with code 2."""
    if found := problem(run, expected):
        found += ": expected the code of the submission, which only you can write. Find out who did that. "
        found += "Then move that file or folder away"
    if found := unsuitable() or found:
        print(f"not started: {found}", file=sys.stderr)
        with contextlib.suppress(OSError), open(note, "a", encoding="utf-8") as file:
            file.write(f"{found}\n")
        sys.exit(2)
    with contextlib.suppress(OSError):  # needed only for relative paths, whose errors name the folder
        os.chdir(folder)
    path = os.pathsep.join([str(run / "code" / expected[:12]), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.execve(sys.executable, [sys.executable, *arguments], {**os.environ, "PYTHONPATH": path})  # noqa: S606


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:])
