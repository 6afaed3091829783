"""Converts JSON values to typed dataclasses and back, with strict checks.

`decode_dataclass(cls, value)` takes a value that `json.loads` returned and returns it as that dataclass, or raises
`Mismatch`. trex/records/base.py lists the types that its fields may have.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import reprlib
import types
import typing
from collections.abc import Callable, Mapping
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


def fixed_keys(cls: object) -> dict[str, int | str]:
    """The keys of a record that are not fields: its format number and, if it has one, its kind."""
    keys = {"format": getattr(cls, "FORMAT", None), "kind": getattr(cls, "KIND", None)}
    return {key: value for key, value in keys.items() if value is not None}


def decode_dataclass(cls: type[D], value: object) -> D:
    """Convert `value` to the dataclass `cls`.

    The keys of `value` must be exactly the fields, and for a record the format number and kind. Raises Mismatch.
    """
    fields = _fields(cls)
    if not isinstance(value, dict):
        raise Mismatch("", f"found {shown(value)}, expected an object with {', '.join(fields.hints)}")
    for key, expected in fields.fixed.items():
        if type(value.get(key)) is not type(expected) or value[key] != expected:
            raise Mismatch(key, f"{found_or_missing(value, key)}, expected {expected!r} ({cls.__name__})")
    if value.keys() != fields.keys:
        raise _wrong_keys(fields, value)
    decoded = {}
    for key, decode_field in fields.decoders:
        try:
            decoded[key] = decode_field(value[key])
        except Mismatch as error:
            raise error.inside(key) from error
    try:
        return cls(**decoded)
    except ValueError as error:  # raised by __post_init__
        raise Mismatch("", str(error)) from error


def _wrong_keys(fields: _Fields, value: Mapping[str, object]) -> Mismatch:
    hints = fields.hints
    if missing := [key for key in hints if key not in value]:
        return Mismatch(missing[0], f"missing, expected {_type_name(hints[missing[0]])}")
    unknown = next(key for key in value if key not in fields.keys)
    return Mismatch("", f"found the unknown key {shown(unknown)}, expected only {', '.join(hints)}")


#: Converts a JSON value to one type, or raises Mismatch. One is made per type, because `trex status` decodes the lines
#: of hundreds of files.
Decoder = Callable[[object], object]


@functools.cache
def _decoder(hint: object) -> Decoder:
    if isinstance(hint, type):
        return _plain_decoder(hint)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _bounded_decoder(args[0], args[1])
    if origin is Literal:
        return _literal_decoder(args, hint)
    if origin in (typing.Union, types.UnionType):
        return _union_decoder(args, hint)
    if origin is tuple:
        return _tuple_decoder(args, hint)
    if origin is dict:
        return _dict_decoder(_decoder(args[1]), hint)
    raise TypeError(f"records cannot hold {hint!r}")


def _plain_decoder(hint: type) -> Decoder:
    if hint is float:
        return _float
    if hint in (int, bool, str):
        return functools.partial(_scalar, hint)
    if dataclasses.is_dataclass(hint):
        return functools.partial(decode_dataclass, hint)
    if issubclass(hint, StrEnum):
        return _enum_decoder(hint)
    raise TypeError(f"records cannot hold {hint!r}")


def _float(value: object) -> float:
    if type(value) is int:
        value = float(value) if abs(value) < 2**63 else math.inf
    if type(value) is not float or not math.isfinite(value):
        raise _unexpected(value, float)
    return value


def _scalar(hint: type, value: object) -> object:
    if type(value) is not hint:
        raise _unexpected(value, hint)
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise _unexpected(value, hint)
    return _text_value(value) if isinstance(value, str) else value


def _enum_decoder(hint: type[StrEnum]) -> Decoder:
    names = {str(one) for one in hint}

    def decode_name(value: object) -> object:
        if not isinstance(value, str) or value not in names:
            raise _unexpected(value, hint)
        return hint(value)

    return decode_name


def _text_value(text: str) -> str:
    """Return `text` if it can be printed and written. JSON escapes may encode lone surrogates and NUL, which cannot."""
    if "\0" in text or (not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)):
        raise Mismatch("", f"found {shown(text)}, expected text")
    return text


def _bounded_decoder(hint: object, bounds: Bounds) -> Decoder:
    inner, low, high = _decoder(hint), bounds.low, bounds.high
    #: Nearly all values are of exactly this type. A number within the bounds is then finite and has at most 64 bits.
    usual = hint if hint is float or (hint is int and low >= -(2**63) and high < 2**63) else None

    def decode_bounded(value: object) -> object:
        if type(value) is usual and low <= value <= high:
            return value
        decoded = inner(value)
        if isinstance(decoded, int | float) and not low <= decoded <= high:
            raise Mismatch("", f"found {shown(decoded)}, expected {low:g} to {high:g}")
        return decoded

    return decode_bounded


def _literal_decoder(choices: tuple[object, ...], hint: object) -> Decoder:
    def decode_literal(value: object) -> object:
        if any(type(value) is type(one) and value == one for one in choices):
            return value
        raise _unexpected(value, hint)

    return decode_literal


def _union_decoder(hints: tuple[object, ...], union: object) -> Decoder:
    others = [_decoder(hint) for hint in hints if hint is not type(None)]

    def decode_union(value: object) -> object:
        if value is None and len(others) < len(hints):
            return None
        for decode_one in others:
            try:
                return decode_one(value)
            except Mismatch:
                if len(others) == 1:
                    raise
        raise _unexpected(value, union)

    return decode_union


def _tuple_decoder(args: tuple[object, ...], hint: object) -> Decoder:
    any_length = args[1:] == (...,)
    decoders = [_decoder(one) for one in (args[:1] if any_length else args)]

    def decode_tuple(value: object) -> object:
        if not isinstance(value, list):
            raise _unexpected(value, hint)
        each = decoders * len(value) if any_length else decoders
        if len(each) != len(value):
            raise _unexpected(value, hint)
        return tuple(_in(number, one, item) for number, (one, item) in enumerate(zip(each, value, strict=True)))

    return decode_tuple


def _dict_decoder(inner: Decoder, hint: object) -> Decoder:
    def decode_dict(value: object) -> object:
        if not isinstance(value, dict):
            raise _unexpected(value, hint)
        decoded = {}
        for key, one in value.items():
            _text_value(key)
            try:
                decoded[key] = inner(one)
            except Mismatch as error:
                raise error.inside(shown(key)) from error
        return decoded

    return decode_dict


def _in(key: str | int, decode_one: Decoder, value: object) -> object:
    try:
        return decode_one(value)
    except Mismatch as error:
        raise error.inside(shown(key)) from error


@dataclass(frozen=True)
class _Fields:
    """What is known of a dataclass: name and type of each field, their decoders, and the keys that are not fields."""

    hints: Mapping[str, object]
    decoders: tuple[tuple[str, Decoder], ...]
    fixed: Mapping[str, int | str]
    keys: frozenset[str]  #: of both


def _fields(cls: object) -> _Fields:
    return _cached_fields(cls)


@functools.cache
def _cached_fields(cls: Any) -> _Fields:
    of_module = typing.get_type_hints(cls, include_extras=True)
    assert dataclasses.is_dataclass(cls)
    hints = {field.name: of_module[field.name] for field in dataclasses.fields(cls)}
    fixed = fixed_keys(cls)
    decoders = tuple((key, _decoder(hint)) for key, hint in hints.items())
    return _Fields(hints, decoders, fixed, frozenset((*hints, *fixed)))


def encode(value: object) -> object:
    """Convert `value` to JSON types. Text that is not valid Unicode, such as some paths, is escaped."""
    if dataclasses.is_dataclass(value):
        fields = {key: encode(getattr(value, key)) for key in _fields(type(value)).hints}
        return {**_fields(type(value)).fixed, **fields}
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
