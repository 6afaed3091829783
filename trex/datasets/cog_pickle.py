"""The only reader of a pickle: CoG's two, which hold nothing but lists, dicts, texts and arrays of texts.

What a pickle may name is listed here, by name; everything else is refused before it is called. The arrays are rebuilt
as plain lists, so that not even numpy's own reconstruction runs on the file's content.
"""

from __future__ import annotations

import io
import pickle  # noqa: TID251
from pathlib import Path
from typing import Any

from trex.errors import UserError

MAX_BYTES = 2 << 30
MAX_DEPTH = 6


class _Type:
    """Stands for a numpy dtype."""

    def __init__(self, code: object = "", *_flags: object) -> None:
        self.code = str(code)

    def __setstate__(self, _state: object) -> None:
        """Byte order and sizes: not needed for texts."""


class _Array:
    """Stands for a numpy array of texts; its state gives the elements."""

    def __init__(self, *_shape: object) -> None:
        self.items: list[str] = []

    def __setstate__(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], _Type)):
            raise pickle.UnpicklingError("an array in an unknown form")
        _, _, kind, _, content = state
        if isinstance(content, list):
            self.items = content
        elif isinstance(content, bytes) and kind.code[:1] in "US" and kind.code[1:].isdecimal():
            self.items = _texts(content, kind.code)
        else:
            raise pickle.UnpicklingError(f"an array of type {kind.code}, expected texts")


def _texts(content: bytes, code: str) -> list[str]:
    width = int(code[1:]) * (4 if code[0] == "U" else 1)
    if width == 0 or len(content) % width:
        raise pickle.UnpicklingError("an array whose size does not fit its type")
    encoding = "utf-32-le" if code[0] == "U" else "utf-8"
    return [content[i : i + width].decode(encoding).rstrip("\0") for i in range(0, len(content), width)]


def _reconstruct(*_arguments: object) -> _Array:
    return _Array()


def _from_buffer(content: object, kind: object, *_shape: object) -> _Array:
    """Protocol 5's form of an array of texts."""
    if not (isinstance(content, bytes | bytearray) and isinstance(kind, _Type) and kind.code[:1] in ("U", "S")):
        raise pickle.UnpicklingError("an array in an unknown form")
    array = _Array()
    array.items = _texts(bytes(content), kind.code)
    return array


class _Nothing:
    """Stands for numpy.ndarray, which the file names but which is not needed."""


def _encode(text: object, *_encoding: object) -> bytes:
    """Old protocols write bytes as text."""
    if not isinstance(text, str):
        raise pickle.UnpicklingError("bytes in an unknown form")
    return text.encode("latin-1")


def _scalar(kind: object, content: object = b"") -> str:
    """Stands for a numpy text scalar."""
    if isinstance(content, str):
        return content
    if not (isinstance(kind, _Type) and isinstance(content, bytes)):
        raise pickle.UnpicklingError("a scalar in an unknown form")
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
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no such file needs")
        return _ALLOWED[module, name]

    def persistent_load(self, _id: object) -> Any:
        raise pickle.UnpicklingError("it refers to something outside")


def read_plain_pickle(path: Path) -> Any:
    """The content as lists, dicts, texts and numbers; arrays of texts as lists.

    Raises:
        UserError: if the file is no pickle or holds anything else; nothing in it has been run.
    """
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path}: {path.stat().st_size} bytes, expected at most {MAX_BYTES}")
    try:
        return _plain(_Reader(io.BytesIO(path.read_bytes())).load(), MAX_DEPTH)
    except Exception as error:  # a forged pickle can raise anything
        raise UserError(f"{path}: refused, not a plain file of the CoG benchmark ({error})") from error


def _plain(value: Any, depth: int) -> Any:
    if depth == 0:
        raise pickle.UnpicklingError("nested too deeply")
    if isinstance(value, str | int) and not isinstance(value, bool):
        return value
    if isinstance(value, _Array):
        return [_plain(item, depth - 1) for item in value.items]
    if isinstance(value, list | tuple):
        return [_plain(item, depth - 1) for item in value]
    if isinstance(value, dict):
        return {str(_plain(key, depth - 1)): _plain(item, depth - 1) for key, item in value.items()}
    raise pickle.UnpicklingError(f"it holds a {type(value).__name__}")
