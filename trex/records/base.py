"""What all records have in common: one frozen dataclass per file format, written and read in one strict way.

A record is a subclass of `Record` whose fields are the keys of a JSON object:

    @dataclass(frozen=True)
    class Submission(Record):
        FORMAT: ClassVar[int] = 1
        job: str
        time: Time

`Submission(...).write(path)` writes a file that holds one record and `Submission.read(path)` reads it. A file of one
record per line (`.jsonl`) is written by `append(path)` and read by `read_lines(path)`, which returns the good records
and the damaged lines apart: a listing warns about the damaged ones and shows the rest (`Lines.damaged`), whoever needs
every line raises (`Lines.strict`).

Reading is strict. The file must hold exactly the record's fields, each of its declared type, and its format number
("format"): a key that is missing, unknown or of another type is damage and raises `RecordError`, and so is any other
format number. Whoever changes the fields of a record therefore raises its FORMAT. Fields may be int (64 bits), float
(finite; a whole number is accepted), bool, str, Literal, StrEnum, None unions, `tuple[X, ...]`, `tuple[X, Y]`,
`dict[str, X]`, other records or plain dataclasses, and any of these as `Annotated[X, Bounds(low, high)]`. A check that
needs several fields goes in `__post_init__` and raises ValueError.

Several records that share one file (the events of a run) each have a KIND, written as "kind"; `read_lines_of` reads
them. Imports neither torch nor numpy nor h5py: submitting a job reads records.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Generic, Self, TypeVar

from trex.errors import TrexError
from trex.files import append_line, write_json
from trex.records.typed import Bounds, Mismatch, decode_dataclass, encode, shown

Json = dict[str, object]
R = TypeVar("R", bound="Record")


class RecordError(TrexError):
    """A file does not hold the record it should: the message says file and line, what was found, what was expected."""


#: A number of things: steps, bytes, processes.
Count = Annotated[int, Bounds(0, 2**63 - 1)]
#: Seconds since 1970, up to the year 5138: whatever is accepted can be printed as a date.
Time = Annotated[float, Bounds(0, 1e11)]


@dataclass(frozen=True)
class Lines(Generic[R]):
    """What a file of one record per line holds."""

    records: tuple[R, ...]
    damaged: tuple[RecordError, ...]  #: one per damaged line, naming file and line

    def strict(self) -> tuple[R, ...]:
        """The records. Raises RecordError if any line is damaged."""
        for error in self.damaged:
            raise error
        return self.records


@dataclass(frozen=True)
class Record:
    """Base of all records; see the module's docstring."""

    FORMAT: ClassVar[int]  #: raised with every change of the fields
    KIND: ClassVar[str | None] = None  #: tells records apart that share one file

    def to_json(self) -> Json:
        """This record as a plain JSON object, with its format number."""
        encoded = encode(self)
        assert isinstance(encoded, dict)
        return encoded

    @classmethod
    def from_json(cls, value: object, where: str) -> Self:
        """The record that a parsed JSON value holds.

        Args:
            value: what `json.loads` returned.
            where: file, and line if there is one, for the message.

        Raises:
            RecordError: if it is anything but this record.
        """
        try:
            return decode_dataclass(cls, value)
        except Mismatch as error:
            raise RecordError(f"{where}: {error}") from error

    def write(self, path: Path) -> None:
        """Write this record as the only content of `path`, atomically and durably."""
        write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the record that `path` holds.

        Raises:
            FileNotFoundError: if there is no such file.
            RecordError: if the file cannot be read, or holds anything but this record.
        """
        return cls.parse(_content(path), str(path))

    @classmethod
    def parse(cls, content: bytes, where: str) -> Self:
        """The record that the content of a file holds; `where` names the file. Raises RecordError as `read` does."""
        text = _text(content, where)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            raise RecordError(f"{where}{line}: found no JSON ({error}), expected {_described(cls)}") from error
        try:
            return decode_dataclass(cls, value)
        except Mismatch as error:
            raise RecordError(f"{where}{_line_of(error.key, text)}: {error}") from error

    def append(self, path: Path) -> None:
        """Append this record as one line; the short lines of several writers do not mix."""
        append_line(path, json.dumps(self.to_json(), allow_nan=False, ensure_ascii=False))

    @classmethod
    def read_lines(cls, path: Path) -> Lines[Self]:
        """All lines of a file of such records; none if there is no such file. See `read_lines_of`."""
        return read_lines_of(path, cls)


def read_lines_of(path: Path, *kinds: type[R]) -> Lines[R]:
    """All lines of a file whose records are of one of `kinds`, in order; none if there is no such file.

    An incomplete last line, without its end of line, is neither a record nor damage: it is still being written, or its
    writer was killed. A file that cannot be read counts as one damaged line.
    """
    try:
        content = _content(path)
    except FileNotFoundError:
        return Lines((), ())
    except RecordError as error:
        return Lines((), (error,))
    *lines, last = content.split(b"\n")
    records: list[R] = []
    damaged: list[RecordError] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            records.append(_record_of_line(line, f"{path}:{number}", kinds))
        except RecordError as error:
            damaged.append(error)
    if last:
        with contextlib.suppress(RecordError):
            records.append(_record_of_line(last, str(path), kinds))
    return Lines(tuple(records), tuple(damaged))


def _record_of_line(line: bytes, where: str, kinds: tuple[type[R], ...]) -> R:
    try:
        value = json.loads(_text(line, where))
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where}: found no JSON ({error}), expected {_described(*kinds)}") from error
    if kinds[0].KIND is None:
        return kinds[0].from_json(value, where)
    found = value.get("kind") if isinstance(value, dict) else None
    for kind in kinds:
        if found == kind.KIND:
            return kind.from_json(value, where)
    raise RecordError(f"{where}: found {shown(value)}, expected {_described(*kinds)}")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from error


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        before = content[: error.start].count(b"\n")
        line = f", line {before + 1}" if b"\n" in content else ""
        raise RecordError(f"{where}{line}: found bytes that are not UTF-8, expected JSON") from error


def _line_of(key: str, text: str) -> str:
    """`:3` for the line of a JSON text that spells the first part of `key`, else nothing."""
    name = json.dumps(key.partition(".")[0], ensure_ascii=False)
    for number, line in enumerate(text.split("\n"), 1):
        if key and line.lstrip().startswith(f"{name}:"):
            return f":{number}"
    return ""


def _described(*kinds: type[Record]) -> str:
    return f"a record of {' or '.join(kind.__name__ for kind in kinds)}"
