"""Bounds the time and memory that reading a pickle can take, before it is read. No object is built here.

A pickle has no loops, but a few bytes can name the same object many times. Nested tuples of a hundred bytes, as a key
of a dict, are hashed for years; nested lists of a hundred bytes expand to terabytes wherever they are walked through.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from typing import IO

MAX_DEPTH = 100  #: of containers in containers
_ALLOWANCE = 1_000_000  #: objects that references may stand for in any file, in addition to `_RATIO` per instruction
_RATIO = 20

_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_FILLS = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}
#: Per instruction: how many objects it takes after those above the last mark (-1: it takes no mark), and leaves.
_EFFECTS = {
    opcode.name: (
        next((place for place, kind in enumerate(opcode.stack_before) if kind is pickletools.markobject), -1),
        len(opcode.stack_before),
        len(opcode.stack_after),
    )
    for opcode in pickletools.opcodes
}

#: Instructions that make a text, a number or another value without content.
_PLAIN = {
    name
    for name, effect in _EFFECTS.items()
    if effect == (-1, 0, 1) and not name.startswith("EMPTY") and name not in {"MARK", *_GETS}
}


class Unbounded(ValueError):
    """Reading the pickle could take time or memory out of proportion to its size."""


class _Object:
    """An object that the pickle makes: how many objects are in it, with repetitions, and how deeply they nest."""

    __slots__ = ("count", "depth", "placed")

    def __init__(self, placed: bool = False) -> None:
        self.count, self.depth, self.placed = 1, 0, placed

    def fill(self, parts: list[_Object]) -> None:
        """Add objects. Raises Unbounded if this object is in another one, whose count would be wrong."""
        self.count += sum([part.count for part in parts])
        self.depth = max(self.depth, 1 + max([part.depth for part in parts], default=-1))
        for part in parts:
            part.placed = True
        if self.placed:
            raise Unbounded("it fills a container that is already in another one, or in itself")
        if self.depth > MAX_DEPTH:
            raise Unbounded(f"it is nested more than {MAX_DEPTH} levels deep: nested too deeply")


def require_bounded(pickle: bytes | IO[bytes]) -> None:
    """Check the next pickle of a file.

    Raises:
        Unbounded: if it nests too deeply, refers to the same objects so often that they expand to far more than the
            file, or numbers objects so that the reader would allocate memory for all numbers up to it.
        ValueError: if it is no pickle.
    """
    machine = _Machine()
    stack, memo, plain = machine.stack, machine.memo, _Object(placed=True)
    for instruction, (opcode, argument, _) in enumerate(pickletools.genops(pickle), start=1):
        name = opcode.name
        if name in _PLAIN:  # almost all instructions of a large file: the shortest way
            stack.append(plain)
        elif name == "MEMOIZE" and stack and stack[-1] is plain:
            memo[len(memo)] = plain
        else:
            machine.run(name, argument, instruction)


class _Machine:
    """The stack and the memo of a pickle's reader, with the counts of objects in place of objects."""

    def __init__(self) -> None:
        self.stack: list[_Object | None] = []  # None: a mark
        self.memo: dict[int, _Object] = {}
        self.referred = 0

    def run(self, name: str, argument: object, instruction: int) -> None:
        if name in _PUTS or name == "MEMOIZE":
            number = argument if isinstance(argument, int) else len(self.memo)
            if number > instruction:
                raise Unbounded(f"it numbers an object {number} after {instruction} instructions")
            self.memo[number] = self.top()
        elif name in _GETS or name == "DUP":
            found = self.top() if name == "DUP" else self.memo.get(argument if isinstance(argument, int) else -1)
            if found is None:
                raise Unbounded("it refers to an object that does not exist")
            self.referred += found.count
            if self.referred > _ALLOWANCE + _RATIO * instruction:
                raise Unbounded(f"its references stand for more than {self.referred} objects: it expands too much")
            self.stack.append(found)
        elif name == "MARK":
            self.stack.append(None)
        else:
            self.build(name)

    def build(self, name: str) -> None:
        """Take objects from the stack and leave what the instruction makes of them."""
        mark, before, after = _EFFECTS[name]
        parts = list(self.taken_to_mark()) if mark >= 0 else []
        parts += [self.pop() for _ in range(mark if mark >= 0 else before)]
        if name in _FILLS:
            container = parts.pop()
            container.fill(parts)
            self.stack.append(container)
            return
        for _ in range(after):
            made = _Object()
            made.fill(parts)
            self.stack.append(made)

    def taken_to_mark(self) -> Iterator[_Object]:
        while self.stack:
            taken = self.stack.pop()
            if taken is None:
                return
            yield taken
        raise Unbounded("it has no mark where one is needed")

    def pop(self) -> _Object:
        if not self.stack or (taken := self.stack.pop()) is None:
            raise Unbounded("it takes an object where there is none")
        return taken

    def top(self) -> _Object:
        if not self.stack or (found := self.stack[-1]) is None:
            raise Unbounded("it takes an object where there is none")
        return found
