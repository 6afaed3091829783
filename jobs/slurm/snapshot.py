"""Copies the code at submission, so that editing the source afterwards does not change jobs in the queue.

runs/<name>/code/<digest>/{trex,jobs}/…   named by the digest of its content; never written again
runs/<name>/code/<digest>.json            the commit that it was copied from (trex/records/code.py)
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jobs
import trex
from jobs.plan.code import record_origin
from jobs.slurm.verify import digest, problem, sources
from trex.errors import UserError
from trex.files import TEMPORARY, set_mode, sync
from trex.records.run_dir import RunDir

#: The packages that a job needs, and the folders they are installed in: a checkout or site-packages.
_INSTALLED = {"jobs": Path(jobs.__file__).resolve().parent, "trex": Path(trex.__file__).resolve().parent}
#: numba's cache files. They lie next to the source file and hold a digest of it.
_COMPILED = {".nbi", ".nbc"}


def code_digest() -> str:
    """Return the hexadecimal SHA-256 of the installed code. Its first digits name the copy."""
    return digest(_INSTALLED)


def snapshot_of(run: RunDir, code: str) -> Path:
    """Return the folder of the copy of the code with that digest, for PYTHONPATH."""
    return run.code / code[:12]


def take_snapshot(run: RunDir) -> str:
    """Copy the packages into the run folder, unless the same code has been copied already, and record their commit.

    The copy includes numba's cache, so that the processes of a job need not compile the same functions again.

    Returns:
        The digest of the code.

    Raises:
        UserError: if the copy was changed, or if other users could change it.
    """
    code = code_digest()
    target = snapshot_of(run, code)
    if target.exists():
        if found := problem(run.root, code):
            raise UserError(f"{found}: expected the copy of the code. Move {target} away, then submit again")
    else:
        _copy(run, target)
    record_origin(run, target.name)
    return code


def _copy(run: RunDir, target: Path) -> None:
    run.code.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=run.code))
    try:
        for path, relative in _to_copy():
            copy = temporary / relative
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)  # copy2 would fail on a file system without modes
            os.utime(copy, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
            set_mode(copy, 0o444)
        for folder in (temporary, *temporary.rglob("*/")):
            set_mode(folder, 0o755)  # regardless of the umask, so that nobody else can add compiled functions
        if not target.exists():
            temporary.rename(target)
            sync(run.code)
    except OSError:
        if not target.exists():  # otherwise another submission made the same copy first
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _to_copy() -> Iterator[tuple[Path, str]]:
    """Yield the source files and the compiled functions of the packages, with their paths in the copy."""
    for package, folder in _INSTALLED.items():
        yield from sources(package, folder)
        for path in folder.rglob("__pycache__/*"):
            if path.suffix in _COMPILED:
                yield path, f"{package}/{path.relative_to(folder).as_posix()}"
