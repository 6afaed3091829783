"""What the reader of PyTorch files puts in place of objects that are neither tensors nor plain values.

Files of other programs contain the arguments of a training (an `argparse.Namespace`, paths) and numpy's arrays and
scalars. Their pickles name a class or function for each of them. `PLACEHOLDERS` maps these names to the classes and
functions below, which hold data or drop it. So neither numpy nor argparse nor pathlib builds anything from the file.
Names that are not in the list are refused by torch's weights-only reader.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

#: numpy's code of a number's type: format character of `struct`, torch's type. Complex numbers are two floats.
_NUMBERS = {
    "b1": ("?", torch.bool), "i1": ("b", torch.int8), "u1": ("B", torch.uint8), "i2": ("h", torch.int16),
    "u2": ("H", torch.uint16), "i4": ("i", torch.int32), "u4": ("I", torch.uint32), "i8": ("q", torch.int64),
    "u8": ("Q", torch.uint64), "f2": ("e", torch.float16), "f4": ("f", torch.float32), "f8": ("d", torch.float64),
    "c8": ("ff", torch.complex64), "c16": ("dd", torch.complex128),
}  # fmt: skip
_MAX_DIMENSIONS = 64


class Dropped:
    """An object whose content is not read."""

    def __new__(cls, *_args: object) -> Dropped:
        """Accept any arguments and forget them."""
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Forget the content."""


class Dtype:
    """A `numpy.dtype`: its code, such as `f8`, and its byte order."""

    def __init__(self, code: object, *_flags: object) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[A-Za-z]\d{0,9}", code):
            raise ValueError(f"a numpy type has the code {code!r:.40}")
        self.code = code
        self.order = "<"

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise ValueError("a numpy type has no byte order")
        self.order = ">" if state[1] == ">" else "<"


class Array:
    """A `numpy.ndarray`: shape, type and bytes. Arrays of anything but numbers have no content here."""

    def __init__(self, *args: object) -> None:
        if args:
            raise ValueError("a numpy array does not begin as an empty array")
        self.shape: tuple[int, ...] = ()
        self._order: str | None = None
        self._code, self._fortran, self._data = "", False, b""

    def __setstate__(self, state: object) -> None:
        """Take numpy's state (version, shape, type, whether columns come first, bytes).

        Raises:
            ValueError: if it is anything else, or the number of bytes is not that of the shape.
        """
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("a numpy array has an unknown kind of state")
        _, shape, dtype, fortran, data = state
        valid = isinstance(shape, tuple) and len(shape) <= _MAX_DIMENSIONS
        if not valid or not all(type(size) is int and size >= 0 for size in shape) or not isinstance(dtype, Dtype):
            raise ValueError("a numpy array has no valid shape or type")
        if dtype.code not in _NUMBERS:
            return
        wanted = math.prod(shape) * int(dtype.code[1:])
        if not isinstance(data, bytes) or len(data) != wanted:
            found = f"{len(data)} bytes" if isinstance(data, bytes) else f"a {type(data).__name__}"
            raise ValueError(f"a numpy array of shape {shape} holds {found}, expected {wanted} bytes")
        self.shape, self._order, self._code = shape, dtype.order, dtype.code
        self._fortran, self._data = bool(fortran), data

    def tensor(self) -> Tensor | None:
        """The array as a tensor of the same shape and type. None if it does not hold numbers."""
        if self._order is None:
            return None
        numbers = torch.empty(0, dtype=_NUMBERS[self._code][1])
        if self._data:
            data = torch.frombuffer(bytearray(self._data), dtype=torch.uint8)
            if self._order == ">":
                width = int(self._code[1:]) // len(_NUMBERS[self._code][0])
                data = data.view(-1, width).flip(1).flatten()
            numbers = data.view(numbers.dtype)
        if not self._fortran:
            return numbers.reshape(self.shape)
        return numbers.reshape(self.shape[::-1]).permute(*range(len(self.shape) - 1, -1, -1)).contiguous()


def _reconstruct(*args: object) -> Array:
    """Stand in for numpy's function of this name, which makes an empty array; its content follows."""
    if args != (Array, (0,), b"b"):
        raise ValueError("a numpy array does not begin as an empty array")
    return Array()


def _scalar(dtype: object, data: object = None) -> Any:
    """Stand in for numpy's `scalar`: return the number or text as Python's; anything else is dropped."""
    if not isinstance(dtype, Dtype):
        raise ValueError("a numpy scalar has no valid type")
    if not isinstance(data, bytes):
        return Dropped()
    if dtype.code in _NUMBERS:
        code = _NUMBERS[dtype.code][0]
        if len(data) != struct.calcsize(f"={code}"):
            raise ValueError(f"a numpy scalar of type {dtype.code} holds {len(data)} bytes")
        values = struct.unpack(f"{dtype.order}{code}", data)
        return complex(*values) if len(values) == 2 else values[0]
    if dtype.code.startswith("U"):
        return data.decode("utf-32-be" if dtype.order == ">" else "utf-32-le")
    return data if dtype.code.startswith("S") else Dropped()


def _no_bytes(*args: object) -> bytes:
    """Stand in for `bytes`, which pickles name for an empty string only."""
    if args:
        raise ValueError("a string of bytes is made by a call")
    return b""


#: (placeholder, full name that it stands for). numpy 1 and 2 name their functions differently.
PLACEHOLDERS: tuple[tuple[Callable[..., Any], str], ...] = (
    (Dropped, "argparse.Namespace"),
    *((Dropped, f"{pathlib}.PosixPath") for pathlib in ("pathlib", "pathlib._local")),
    *((Dropped, f"{pathlib}.WindowsPath") for pathlib in ("pathlib", "pathlib._local")),
    (_no_bytes, "builtins.bytes"),
    (Dtype, "numpy.dtype"),
    (Array, "numpy.ndarray"),
    *((_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
)
