"""Reads MATLAB 5 files with numbers, texts, cells and structs, as the annotations of datasets are.

Files are not trusted. scipy's reader ends the process for some damaged files; this one is Python only. The format:
"MAT-File Format", The MathWorks, https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

MAX_BYTES = 256 << 20  #: of a decompressed variable
MAX_DEPTH = 10  #: of cells and structs in each other
_HEADER = 128
_COMPRESSED, _MATRIX = 15, 14
_CELL, _STRUCT, _CHAR, _FIRST_NUMBER, _LAST_NUMBER = 1, 2, 4, 6, 15
_COMPLEX = 0x0800

#: numpy's type of each type of element; and how the types that hold text are encoded.
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "utf-8", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}


def read_variables(content: bytes) -> dict[str, np.ndarray | str]:
    """The variables of a file, by name, without dimensions of size 1.

    Numbers are an array, a text is a str, a cell array is an array of objects, and an array of structs is a structured
    array of objects. Variables of other kinds, such as functions, are left out.

    Raises:
        ValueError: if the file is damaged, or has no variable that can be read.
    """
    if content[126:128] not in (b"IM", b"MI"):
        raise ValueError("it is no MATLAB 5 file")
    order = "<" if content[126:128] == b"IM" else ">"
    found: dict[str, np.ndarray | str] = {}
    problem = ValueError("it has no variables")
    for element in _elements(content[_HEADER:], order):
        kind, data = next(_elements(_decompressed(element[1]), order)) if element[0] == _COMPRESSED else element
        if kind == _MATRIX:
            try:
                name, value = _matrix(data, order, MAX_DEPTH)
                found[name] = value
            except ValueError as error:
                problem = error
    if not found:
        raise problem
    return found


def _decompressed(data: bytes) -> bytes:
    reader = zlib.decompressobj()
    made = reader.decompress(data, MAX_BYTES)
    if not reader.eof:
        raise ValueError(f"a variable is cut off, or has more than {MAX_BYTES} bytes")
    return made


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """The type and content of each element."""
    place = 0
    while place < len(data):
        if place + 8 > len(data):
            raise ValueError("an element is cut off")
        kind, size = struct.unpack_from(f"{order}II", data, place)
        if kind >> 16:  # a small element: size and type are in the first four bytes
            kind, size, begin, following = kind & 0xFFFF, kind >> 16, place + 4, place + 8
            if size > 4:
                raise ValueError(f"a small element has {size} bytes")
        else:
            begin = place + 8
            following = begin + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        if begin + size > len(data):
            raise ValueError("an element is cut off")
        yield kind, data[begin : begin + size]
        place = following


def _matrix(data: bytes, order: str, depth: int) -> tuple[str, Any]:
    """Name and value of a variable, or of an element of a cell or struct."""
    if depth == 0:
        raise ValueError("it is nested too deeply")
    if not data:
        return "", np.zeros(0)
    parts = _elements(data, order)
    flags = _numbers(*next(parts), order)
    shape = tuple(int(size) for size in _numbers(*next(parts), order))
    name = next(parts)[1].decode()
    kind, count = int(flags[0]) & 0xFF, math.prod(shape)
    if any(size < 0 for size in shape) or len(shape) > 32 or count > len(data):
        raise ValueError(f"{name}: it has the shape {shape} in {len(data)} bytes")
    if kind == _CHAR:
        return name, _text(*next(parts), order, shape)
    if kind == _CELL:
        cells = _objects(_values(parts, order, depth, count))
        return name, cells.reshape(shape, order="F").squeeze()
    if kind == _STRUCT:
        return name, _struct(parts, order, depth, shape)
    if not _FIRST_NUMBER <= kind <= _LAST_NUMBER or int(flags[0]) & _COMPLEX:
        raise ValueError(f"{name}: it is neither numbers, text, a cell nor a struct")
    return name, _numbers(*next(parts), order).reshape(shape, order="F").squeeze()


def _values(parts: Iterator[tuple[int, bytes]], order: str, depth: int, count: int) -> list[Any]:
    values = [_matrix(data, order, depth - 1)[1] for _, data in parts]
    if len(values) != count:
        raise ValueError(f"it has {len(values)} elements, expected {count}")
    return values


def _struct(parts: Iterator[tuple[int, bytes]], order: str, depth: int, shape: tuple[int, ...]) -> np.ndarray:
    (width,) = _numbers(*next(parts), order)
    packed = next(parts)[1]
    if width < 1 or len(packed) % int(width):
        raise ValueError("a struct has no valid field names")
    names = [packed[at : at + int(width)].partition(b"\0")[0].decode() for at in range(0, len(packed), int(width))]
    found = np.empty(math.prod(shape), [(name, object) for name in names])
    values = _values(parts, order, depth, found.size * len(names))
    for number, name in enumerate(names):
        found[name] = _objects(values[number :: len(names)])
    return found.reshape(shape, order="F").squeeze()


def _objects(values: list[Any]) -> np.ndarray:
    """One object per value, also where the values are arrays of the same size."""
    found = np.empty(len(values), object)
    for place, value in enumerate(values):
        found[place] = value
    return found


def _numbers(kind: int, data: bytes, order: str) -> np.ndarray:
    if kind not in _TYPES:
        raise ValueError(f"it has numbers of the unknown type {kind}")
    return np.frombuffer(data, np.dtype(order + _TYPES[kind]))


def _text(kind: int, data: bytes, order: str, shape: tuple[int, ...]) -> Any:
    if kind not in _TEXTS:
        raise ValueError(f"it has text of the unknown type {kind}")
    encoding = _TEXTS[kind] + ("" if kind in (1, 2, 16) else "-le" if order == "<" else "-be")
    text = data.decode(encoding)
    if len(text) != math.prod(shape):
        raise ValueError(f"a text has {len(text)} characters, expected {math.prod(shape)}")
    rows = shape[0] if shape else 0
    return text if rows == 1 else np.array([text[row::rows].rstrip() for row in range(rows)], object).squeeze()
