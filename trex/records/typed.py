"""Converts JSON values to typed dataclasses and back, with strict checks.

`decode(hint, value)` takes a type hint and a value that `json.loads` returned. It returns the value as that type or
raises `Mismatch`. trex/records/base.py lists the types that are supported.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

D = TypeVar("D")

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring = 3, 60


@dataclass(frozen=True)
class Bounds:
    """Inclusive limits of a number: `Annotated[int, Bounds(0, 9)]`."""

    low: float
    high: float


class Mismatch(ValueError):
    """A value does not have the type of its field. `key` is the path of the field from the outermost record."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}" if key else problem)
        self.key, self.problem = key, problem

    def inside(self, key: str) -> Mismatch:
        """The same problem, seen from the enclosing value whose field `key` it is in."""
        joined = f"{key}.{self.key}" if self.key else key
        return Mismatch(joined, self.problem)


def fixed_keys(cls: type) -> dict[str, int | str]:
    """The keys of a record that are not fields: its format number and, if it has one, its kind."""
    keys = {"format": getattr(cls, "FORMAT", None), "kind": getattr(cls, "KIND", None)}
    return {key: value for key, value in keys.items() if value is not None}


def decode_dataclass(cls: type[D], value: object) -> D:
    """Convert `value` to the dataclass `cls`.

    The keys of `value` must be exactly the fields, and for a record the format number and kind. Raises Mismatch.
    """
    hints = _hints(cls)
    if not isinstance(value, dict):
        raise Mismatch("", f"found {shown(value)}, expected an object with {', '.join(hints)}")
    fixed = fixed_keys(cls)
    for key, expected in fixed.items():
        if type(value.get(key)) is not type(expected) or value[key] != expected:
            raise Mismatch(key, f"{found_or_missing(value, key)}, expected {expected!r} ({cls.__name__})")
    if missing := [key for key in hints if key not in value]:
        raise Mismatch(missing[0], f"missing, expected {_type_name(hints[missing[0]])}")
    if unknown := [key for key in value if key not in hints and key not in fixed]:
        raise Mismatch("", f"found the unknown key {shown(unknown[0])}, expected only {', '.join(hints)}")
    fields = {}
    for key, hint in hints.items():
        try:
            fields[key] = decode(hint, value[key])
        except Mismatch as error:
            raise error.inside(key) from error
    try:
        return cls(**fields)
    except ValueError as error:  # raised by __post_init__
        raise Mismatch("", str(error)) from error


def decode(hint: object, value: object) -> object:
    """Convert `value` to the type `hint`. Raises Mismatch if that is impossible."""
    if isinstance(hint, type):
        return _decode_plain(hint, value)
    origin, args = _parts(hint)
    if origin is Annotated:
        return _bounded(decode(args[0], value), args[1])
    if origin is Literal:
        if any(type(value) is type(one) and value == one for one in args):
            return value
        raise _unexpected(value, hint)
    if origin in (typing.Union, types.UnionType):
        return _one_of(args, value, hint)
    if origin is tuple:
        return _tuple(args, value, hint)
    if origin is dict:
        if not isinstance(value, dict):
            raise _unexpected(value, hint)
        return {_text_value(key): _in(key, args[1], one) for key, one in value.items()}
    raise TypeError(f"records cannot hold {hint!r}")


@functools.cache
def _parts(hint: object) -> tuple[object, tuple[Any, ...]]:
    return get_origin(hint), get_args(hint)


def _decode_plain(hint: type, value: object) -> object:
    if hint in (int, float, bool, str):
        return _decode_scalar(hint, value)
    if dataclasses.is_dataclass(hint):
        return decode_dataclass(hint, value)
    if issubclass(hint, StrEnum):
        if not isinstance(value, str) or value not in {str(one) for one in hint}:
            raise _unexpected(value, hint)
        return hint(value)
    raise TypeError(f"records cannot hold {hint!r}")


def _decode_scalar(hint: type, value: object) -> object:
    if hint is float and type(value) is int:
        value = float(value) if abs(value) < 2**63 else math.inf
    if type(value) is not hint:
        raise _unexpected(value, hint)
    if isinstance(value, float) and not math.isfinite(value):
        raise _unexpected(value, hint)
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise _unexpected(value, hint)
    return _text_value(value) if isinstance(value, str) else value


def _text_value(text: str) -> str:
    """Return `text` if it can be printed and written. JSON escapes may encode lone surrogates and NUL, which cannot."""
    if "\0" in text or (not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)):
        raise Mismatch("", f"found {shown(text)}, expected text")
    return text


def _bounded(value: object, bounds: Bounds) -> object:
    if isinstance(value, int | float) and not bounds.low <= value <= bounds.high:
        raise Mismatch("", f"found {shown(value)}, expected {bounds.low:g} to {bounds.high:g}")
    return value


def _one_of(hints: tuple[object, ...], value: object, union: object) -> object:
    if value is None and type(None) in hints:
        return None
    others = [hint for hint in hints if hint is not type(None)]
    for hint in others:
        try:
            return decode(hint, value)
        except Mismatch:
            if len(others) == 1:
                raise
    raise _unexpected(value, union)


def _tuple(args: tuple[object, ...], value: object, hint: object) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise _unexpected(value, hint)
    hints = [args[0]] * len(value) if args[1:] == (...,) else list(args)
    if len(hints) != len(value):
        raise _unexpected(value, hint)
    return tuple(_in(number, one, item) for number, (one, item) in enumerate(zip(hints, value, strict=True)))


def _in(key: str | int, hint: object, value: object) -> object:
    try:
        return decode(hint, value)
    except Mismatch as error:
        raise error.inside(shown(key)) from error


def _hints(cls: Any) -> Mapping[str, object]:
    """Name and type of each field."""
    return _cached_hints(cls)


@functools.cache
def _cached_hints(cls: Any) -> Mapping[str, object]:
    hints = typing.get_type_hints(cls, include_extras=True)
    assert dataclasses.is_dataclass(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def encode(value: object) -> object:
    """Convert `value` to JSON types. Text that is not valid Unicode, such as some paths, is escaped."""
    if dataclasses.is_dataclass(value):
        fields = {key: encode(getattr(value, key)) for key in _hints(type(value))}
        return {**fixed_keys(type(value)), **fields}
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    if isinstance(value, Mapping):
        return {str(key): encode(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [encode(one) for one in value]
    return value


def _unexpected(value: object, hint: object) -> Mismatch:
    return Mismatch("", f"found {shown(value)}, expected {_type_name(hint)}")


def _type_name(hint: object) -> str:
    """The name of a field's type in messages."""
    if get_origin(hint) is Annotated:
        return _type_name(get_args(hint)[0])
    if get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(map(_type_name, get_args(hint)))
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if hint is type(None):
        return "null"
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return " or ".join(repr(str(one)) for one in hint)
    names = {"int": "a whole number", "float": "a finite number", "bool": "true or false", "str": "text"}
    return names.get(getattr(hint, "__name__", ""), str(hint)) if get_origin(hint) is None else str(hint)


def found_or_missing(values: Mapping[str, object], key: str) -> str:
    """What a message says about the value of a key that is wrong."""
    return f"found {shown(values[key])}" if key in values else "missing"


def shown(value: object) -> str:
    """The beginning of a value in ASCII, for messages."""
    text = _SHORT.repr(value).encode("ascii", "backslashreplace").decode()
    return text if len(text) <= 60 else f"{text[:57]}..."
