"""Copies the code at submission, so that editing the source afterwards does not change jobs in the queue.

runs/<name>/code/<digest>/{trex,jobs}/…   named by the digest of its content; never written again
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jobs
import trex
from trex.errors import UserError
from trex.files import TEMPORARY, sync
from trex.records.run_dir import RunDir

#: The packages that a job needs, and the folders they are installed in: a checkout or site-packages.
_INSTALLED = {"jobs": Path(jobs.__file__).resolve().parent, "trex": Path(trex.__file__).resolve().parent}
#: numba's cache files. They lie next to the source file and hold a digest of it.
_COMPILED = {".nbi", ".nbc"}


def code_digest(root: Path | None = None) -> str:
    """Return the first twelve hexadecimal digits of the SHA-256 of the installed code, or of a copy in `root`."""
    digest = hashlib.sha256()
    for path, name in _sources(root):
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def take_snapshot(run: RunDir) -> Path:
    """Copy the packages into the run folder, unless the same code has been copied already.

    The copy includes numba's cache, so that the processes of a job need not compile the same functions again.

    Returns:
        The folder to put on PYTHONPATH.

    Raises:
        UserError: if the copy was changed.
    """
    name = code_digest()
    target = run.code / name
    if target.exists():
        if code_digest(target) != name:
            raise UserError(
                f"{target}: this copy of the code was changed after it was made. Move it away, then submit again"
            )
        return target
    run.code.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=run.code))
    try:
        for path, relative in (*_sources(), *_compiled()):
            copy = temporary / relative
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
            copy.chmod(0o444)
        for folder in (temporary, *temporary.rglob("*/")):
            folder.chmod(0o755)  # regardless of the umask, so that nobody else can add compiled functions
        if not target.exists():
            temporary.rename(target)
            sync(run.code)
    except OSError:
        if not target.exists():  # otherwise another submission made the same copy first
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _sources(root: Path | None = None) -> Iterator[tuple[Path, str]]:
    """Yield the source files of the packages and their paths in a copy, sorted, without `__pycache__`."""
    for path, name in _files(root):
        if "__pycache__" not in path.parts:
            yield path, name


def _compiled() -> Iterator[tuple[Path, str]]:
    for path, name in _files(None):
        if path.suffix in _COMPILED and path.parent.name == "__pycache__":
            yield path, name


def _files(root: Path | None) -> Iterator[tuple[Path, str]]:
    for package, installed in _INSTALLED.items():
        folder = installed if root is None else root / package
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                yield path, f"{package}/{path.relative_to(folder).as_posix()}"
