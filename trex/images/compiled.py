"""Compiles functions with numba, and keeps the machine code in a folder of the user for all copies of the same source.

No function uses fast-math: the same input gives the same bytes on every processor.

numba's own cache is keyed by the path of the source, so that every new copy of the code (each run has one, on Slurm)
would compile for ten seconds in every process. It also does not notice that a function of another file has changed that
is a part of the compiled one. Here the key is the content of all files of this package; numba adds its version, the
types, and the processor with its instructions.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba import njit
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.misc.appdirs import AppDirs

F = TypeVar("F", bound=Callable[..., Any])

_PACKAGE = Path(__file__).parent


def _digest() -> str:
    """SHA-256 of the names and content of this package's files."""
    files = sorted(_PACKAGE.glob("*.py"))
    parts = (hashlib.sha256(part).digest() for file in files for part in (file.name.encode(), file.read_bytes()))
    return hashlib.sha256(b"".join(parts)).hexdigest()


CONTENT = _digest()


def _is_private(folder: Path) -> bool:
    """Whether the folder can be created or is there, and only this user can write it: numba unpickles what is in it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        tempfile.TemporaryFile(dir=folder).close()  # also the disk or quota may refuse
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _folder() -> Path | None:
    """Where compiled code is kept: NUMBA_CACHE_DIR, the user's cache folder, beside the source, or nowhere."""
    chosen = numba.config.CACHE_DIR  # type: ignore[attr-defined]
    home = AppDirs("trex", appauthor=False).user_cache_dir  # type: ignore[no-untyped-call]
    users = Path(chosen) if chosen else Path(home) / "compiled"
    places = (users / CONTENT[:32], _PACKAGE / "__pycache__")
    return next((place for place in places if _is_private(place)), None)


FOLDER = _folder()


class _Locator:
    """Tells numba the folder, and what makes the code in it out of date."""

    def __init__(self, line: int) -> None:
        self.line = line

    @classmethod
    def from_function(cls, function: Any, _file: str) -> _Locator | None:
        return cls(function.__code__.co_firstlineno) if FOLDER else None

    def ensure_cache_path(self) -> None:
        """The folder is there."""

    def get_cache_path(self) -> str:
        return str(FOLDER)

    def get_source_stamp(self) -> str:
        return CONTENT

    def get_disambiguator(self) -> str:
        return str(self.line)


class _Implementation(CompileResultCacheImpl):
    _locator_classes: list[type[object]] = [_Locator]  # noqa: RUF012


class _Cache(FunctionCache):
    """numba's cache, whose files may be damaged or on a full disk: then the function is compiled again."""

    _impl_class = _Implementation

    def load_overload(self, signature: Any, context: Any) -> Any:
        try:
            return super().load_overload(signature, context)  # type: ignore[no-untyped-call]
        except Exception:  # unpickling damaged files raises many types
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        try:
            super().save_overload(signature, result)  # type: ignore[no-untyped-call]
        except Exception:  # also the index that it reads first may be damaged
            return


def compiled(function: F) -> F:
    """Compile on first use, keep the machine code, release the interpreter's lock while running.

    Where no folder can be written that only the user can write, each process compiles for itself.
    """
    made: Any = njit(nogil=True, error_model="numpy")(function)
    if FOLDER:
        made._cache = _Cache(function)  # type: ignore[no-untyped-call]
    return cast(F, made)
