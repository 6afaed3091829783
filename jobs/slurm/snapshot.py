"""The code that a run's jobs execute: copied at submission, so that editing the tree changes no queued job.

runs/<name>/code/<digest>/{trex,jobs}/…   the digest is of what is in it; a folder is never written again
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trex.errors import UserError
from trex.files import TEMPORARY, sync
from trex.records.run_dir import RunDir

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("jobs", "trex")


def code_digest(root: Path = _ROOT) -> str:
    """Twelve hexadecimal digits that name the code of the packages below `root`."""
    digest = hashlib.sha256()
    for path in _sources(root):
        digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def take_snapshot(run: RunDir) -> Path:
    """Copy the packages into the run folder, unless the same code is there already.

    Returns:
        The folder to put on PYTHONPATH.

    Raises:
        UserError: if somebody changed the copy.
    """
    name = code_digest()
    target = run.code / name
    if target.exists():
        if code_digest(target) != name:
            raise UserError(f"{target}: was changed after jobs began to use it. Move it away, and submit again")
        return target
    run.code.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=run.code))
    try:
        for path in _sources(_ROOT):
            copy = temporary / path.relative_to(_ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            copy.chmod(0o444)
        temporary.chmod(0o755)
        if not target.exists():
            temporary.rename(target)
            sync(run.code)
    except OSError:
        if not target.exists():  # else another submission was quicker
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _sources(root: Path) -> Iterator[Path]:
    """The files of the packages, in a fixed order; no byte code, no caches."""
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path
