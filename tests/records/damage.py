"""Damages records in random ways, chosen by a seeded random generator."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1 << 62, 1 << 63, -(1 << 70), 10**400, 0.5, -1e300, 1e300, float("nan"), float("inf"),
    "", "x", "\0", "\ud800", "\u2028", "NaN", [], {}, [[]], {"a": {"b": []}}, [None] * 3, {"format": 1},
)  # fmt: skip


def damaged(chance: random.Random, value: dict[str, Any]) -> bytes:
    """The JSON of a record after one or two random changes of its values, and perhaps of its bytes."""
    content = value
    for _ in range(chance.randint(1, 2)):
        content = chance.choice(_VALUE_CHANGES)(chance, content)
    line = json.dumps(content).encode()
    return chance.choice(_BYTE_CHANGES)(chance, line)


def _drop(chance: random.Random, value: dict[str, Any]) -> dict[str, Any]:
    dropped = chance.choice(list(value) or [""])
    return {key: value[key] for key in value if key != dropped}


def _add(chance: random.Random, value: dict[str, Any]) -> dict[str, Any]:
    return {**value, chance.choice(["extra", "Format", "time ", "kind"]): chance.choice(JUNK)}


def _swap(chance: random.Random, value: dict[str, Any]) -> dict[str, Any]:
    return {**value, chance.choice(list(value) or ["format"]): chance.choice(JUNK)}


def _exchange(chance: random.Random, value: dict[str, Any]) -> dict[str, Any]:
    values = list(value.values())
    chance.shuffle(values)
    return dict(zip(value, values, strict=True))


def _inside(chance: random.Random, value: dict[str, Any]) -> dict[str, Any]:
    """Change one value inside a nested dict or list."""
    nested = [key for key, one in value.items() if isinstance(one, dict | list) and one]
    if not nested:
        return _swap(chance, value)
    key = chance.choice(nested)
    inner = value[key]
    if isinstance(inner, dict):
        return {**value, key: _swap(chance, inner)}
    return {**value, key: [*inner, chance.choice(JUNK)]}


def _cut(chance: random.Random, line: bytes) -> bytes:
    return line[: chance.randrange(len(line))]


def _flip(chance: random.Random, line: bytes) -> bytes:
    changed = bytearray(line)
    for _ in range(chance.randint(1, 4)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _random_bytes(chance: random.Random, line: bytes) -> bytes:
    at = chance.randrange(len(line))
    return line[:at] + chance.randbytes(chance.randint(1, 8)) + line[at:]


def _other(chance: random.Random, line: bytes) -> bytes:
    others = [b"", b"null", b"[]", b"{}", b'"text"', b"NaN", b"\xff\xfe", b"[" * 5000, b'{"a":' * 5000, b"9" * 5000]
    return chance.choice(others)


_VALUE_CHANGES: tuple[Callable[[random.Random, dict[str, Any]], dict[str, Any]], ...] = (
    _drop, _add, _swap, _swap, _exchange, _inside, _inside,
)  # fmt: skip
_BYTE_CHANGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    lambda _, line: line, lambda _, line: line, lambda _, line: line, _cut, _flip, _random_bytes, _other,
)  # fmt: skip
