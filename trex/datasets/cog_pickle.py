"""The only reader of pickles: lists, dicts, strings, integers, and arrays of strings or bytes.

Such are the two files of the CoG benchmark, and CIFAR's version for Python.

`_ALLOWED` lists every name that a pickle may use. Any other name is refused before it is called. Arrays are rebuilt as
plain lists, so that not even numpy's own reconstruction runs on the file's content.
"""

from __future__ import annotations

import io
import pickle  # noqa: TID251
from pathlib import Path
from typing import Any

from trex.errors import UserError
from trex.pickle_limits import require_bounded
from trex.stand_ins import stand_in_at

MAX_BYTES = 2 << 30
MAX_DEPTH = 6
MAX_ITEMS = 50_000_000  #: strings, numbers and containers; the benchmark's files have about six million


class _Type:
    """Stands for a numpy dtype."""

    def __init__(self, code: object = "", *_flags: object) -> None:
        self.code = str(code)

    def __setstate__(self, _state: object) -> None:
        """Ignores byte order and sizes: strings do not need them."""


class _Array:
    """Stands for a numpy array of strings; its state holds the elements."""

    def __init__(self, *_shape: object) -> None:
        self.items: list[str] = []
        self.content: bytes | None = None  #: of an array of bytes

    def __setstate__(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], _Type)):
            raise pickle.UnpicklingError("it holds an array in an unknown form")
        _, _, kind, _, content = state
        if kind.code == "u1" and isinstance(content, str | bytes):
            self.content = content.encode("latin-1") if isinstance(content, str) else content
        elif isinstance(content, list):
            self.items = content
        elif isinstance(content, bytes) and kind.code[:1] in "US" and kind.code[1:].isdecimal():
            self.items = _texts(content, kind.code)
        else:
            raise pickle.UnpicklingError(f"it holds an array of type {kind.code}, expected strings")


def _texts(content: bytes, code: str) -> list[str]:
    width = int(code[1:]) * (4 if code[0] == "U" else 1)
    if width == 0 or len(content) % width:
        raise pickle.UnpicklingError("it holds an array whose size does not fit its type")
    if len(content) // width > MAX_ITEMS:
        raise pickle.UnpicklingError(f"it holds an array of more than {MAX_ITEMS} strings")
    encoding = "utf-32-le" if code[0] == "U" else "utf-8"
    return [content[i : i + width].decode(encoding).rstrip("\0") for i in range(0, len(content), width)]


def _reconstruct(*_arguments: object) -> _Array:
    return _Array()


def _from_buffer(content: object, kind: object, *_shape: object) -> _Array:
    """Rebuilds an array of strings as pickle protocol 5 writes it."""
    if not (isinstance(content, bytes | bytearray) and isinstance(kind, _Type) and kind.code[:1] in ("U", "S")):
        raise pickle.UnpicklingError("it holds an array in an unknown form")
    array = _Array()
    array.items = _texts(bytes(content), kind.code)
    return array


class _Nothing:
    """Stands for numpy.ndarray: the file names it, but the reader does not need it."""


def _encode(text: object, *_encoding: object) -> bytes:
    """Rebuilds bytes that an old pickle protocol wrote as text."""
    if not isinstance(text, str):
        raise pickle.UnpicklingError("it holds bytes in an unknown form")
    return text.encode("latin-1")


def _scalar(kind: object, content: object = b"") -> str:
    """Stands for a numpy string scalar."""
    if isinstance(content, str):
        return content
    if not (isinstance(kind, _Type) and isinstance(content, bytes)):
        raise pickle.UnpicklingError("it holds a scalar in an unknown form")
    return _texts(content, kind.code)[0]


_ALLOWED: dict[tuple[str, str], Any] = {("numpy", "ndarray"): _Nothing, ("numpy", "dtype"): _Type}
for _core in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _ALLOWED[_core, "_reconstruct"] = _reconstruct
    _ALLOWED[_core, "scalar"] = _scalar
for _core in ("numpy.core.numeric", "numpy._core.numeric"):
    _ALLOWED[_core, "_frombuffer"] = _from_buffer
_ALLOWED["_codecs", "encode"] = _encode


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not allowed")
        return _ALLOWED[module, name]

    def persistent_load(self, _id: object) -> Any:
        raise pickle.UnpicklingError("it refers to an object outside the file")


def read_plain_pickle(path: Path, what: str = "a file of the CoG benchmark with lists and strings only") -> Any:
    """Returns the content as lists, dicts, strings and integers; string arrays become lists, byte arrays bytes.

    Strings of Python 2 are taken as Latin-1. `what` says what the file should be, for the error message.

    Raises:
        UserError: if the file is not a pickle or holds anything else. No code from the file is run.
    """
    try:
        if what_it_is := stand_in_at(path):
            raise UserError(f"{path}: {what_it_is}")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: {path.stat().st_size} bytes, expected at most {MAX_BYTES}")
        content = path.read_bytes()
        require_bounded(content)
        return _Plain().of(_Reader(io.BytesIO(content), encoding="latin-1").load(), MAX_DEPTH)
    except UserError:
        raise
    except Exception as error:  # a malicious pickle can raise any exception
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{path}: refused, expected {what} ({reason:.300}). Download the file again from its official page."
        ) from error


class _Plain:
    """Converts a pickle's content. A small file can hold the same list many times, so the items are counted."""

    def __init__(self) -> None:
        self.items = 0

    def of(self, value: Any, depth: int) -> Any:
        self.items += 1
        if self.items > MAX_ITEMS:
            raise pickle.UnpicklingError(f"it holds more than {MAX_ITEMS} items")
        if depth == 0:
            raise pickle.UnpicklingError("it is nested too deeply")
        if isinstance(value, str | int) and not isinstance(value, bool):
            return value
        if isinstance(value, _Array) and value.content is not None:
            return value.content
        if isinstance(value, _Array):
            return [self.of(item, depth - 1) for item in value.items]
        if isinstance(value, list | tuple):
            return [self.of(item, depth - 1) for item in value]
        if isinstance(value, dict):
            return {str(self.of(key, depth - 1)): self.of(item, depth - 1) for key, item in value.items()}
        raise pickle.UnpicklingError(f"it holds a {type(value).__name__}")
