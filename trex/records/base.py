"""The base of all records. A record is a frozen dataclass that defines a file format and is read strictly.

A record is a subclass of `Record` whose fields are the keys of a JSON object:

    @dataclass(frozen=True)
    class Submission(Record):
        FORMAT: ClassVar[int] = 1
        job: str
        time: Time

`Submission(...).write(path)` writes a file with one record, and `Submission.read(path)` reads it. `append(path)` and
`read_lines(path)` write and read a file with one record per line (`.jsonl`). `read_lines` returns the valid records and
an error for each damaged line: a listing command shows the records and warns about the errors (`Lines.damaged`); code
that needs every line calls `Lines.strict`, which raises the first error.

Reading is strict. The file must hold exactly the record's fields with their declared types, and the record's format
number ("format"). A missing or unknown key, a value of another type, or another format number raises `RecordError`. So
every change of a record's fields must increase its FORMAT. A field's type may be int (64 bits), float (finite; a whole
number is accepted), bool, str, Literal, StrEnum, a union with None, `tuple[X, ...]`, `tuple[X, Y]`, `dict[str, X]`,
another record or dataclass, and any of these as `Annotated[X, Bounds(low, high)]`. A check of several fields together
belongs into `__post_init__` and raises ValueError.

If records of several classes share one file (the events of a run), each class has a KIND, which is written as "kind";
`read_lines_of` reads such a file. The package imports neither torch nor numpy nor h5py, because submitting a job reads
records.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Generic, Self, TypeVar

from trex.errors import TrexError
from trex.files import append_line, write_json
from trex.records.typed import Bounds, Mismatch, decode_dataclass, encode, found_or_missing, shown
from trex.stand_ins import read_file

Json = dict[str, object]
R = TypeVar("R", bound="Record")


class RecordError(TrexError):
    """A file does not hold the expected record. The message says file and line, what was found and expected."""


#: A number of steps, bytes, processes, …
Count = Annotated[int, Bounds(0, 2**63 - 1)]
#: Seconds since 1970, up to the year 5138, so that every accepted value can be printed as a date.
Time = Annotated[float, Bounds(0, 1e11)]


@dataclass(frozen=True)
class Lines(Generic[R]):
    """The content of a file with one record per line."""

    records: tuple[R, ...]  #: of the valid lines, in order
    damaged: tuple[RecordError, ...]  #: one per damaged line, naming file and line

    def strict(self) -> tuple[R, ...]:
        """The records. Raises RecordError if any line is damaged."""
        for error in self.damaged:
            raise error
        return self.records


@dataclass(frozen=True)
class Record:
    """Base class of all records; see the module's docstring."""

    FORMAT: ClassVar[int]  #: format number; every change of the fields must increase it
    KIND: ClassVar[str | None] = None  #: identifies the class if records of several classes share one file

    def to_json(self) -> Json:
        """This record as a plain JSON object, with its format number."""
        encoded = encode(self)
        assert isinstance(encoded, dict)
        return encoded

    @classmethod
    def from_json(cls, value: object, where: str) -> Self:
        """Convert a parsed JSON value to this record.

        Args:
            value: a value that `json.loads` returned.
            where: file and line, for error messages.

        Raises:
            RecordError: if the value is not exactly this record.
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
        """Read the record in the file `path`.

        Raises:
            FileNotFoundError: if the file does not exist.
            RecordError: if the file cannot be read or does not hold exactly this record.
        """
        return cls.parse(_content(path), str(path))

    @classmethod
    def parse(cls, content: bytes, where: str) -> Self:
        """Convert the content of the file `where` to this record. Raises RecordError as `read` does."""
        text = _text(content, where)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            raise RecordError(f"{where}{line}: {_invalid(error)}") from error
        try:
            return decode_dataclass(cls, value)
        except Mismatch as error:
            raise RecordError(f"{where}{_line_of(error.key, text)}: {error}") from error

    def to_line(self) -> str:
        """This record as one line of a `.jsonl` file, with its newline."""
        return json.dumps(self.to_json(), allow_nan=False, ensure_ascii=False) + "\n"

    def append(self, path: Path) -> None:
        """Append this record as one line. Several processes may append: short lines are written in one piece."""
        append_line(path, self.to_line().removesuffix("\n"))

    @classmethod
    def read_lines(cls, path: Path) -> Lines[Self]:
        """Read a file with one such record per line; no lines if the file does not exist. See `read_lines_of`."""
        return read_lines_of(path, cls)


def read_lines_of(path: Path, *kinds: type[R]) -> Lines[R]:
    """Read a file with one record of any of the classes `kinds` per line; no lines if the file does not exist.

    A last line without newline is ignored unless it is a complete record: it is still being written, or its writer was
    killed. A file that cannot be read counts as one damaged line.
    """
    try:
        content = _content(path)
    except FileNotFoundError:
        return Lines((), ())
    except RecordError as error:
        return Lines((), (error,))
    *lines, last = content.split(b"\n")
    name = str(path)
    records: list[R] = []
    damaged: list[RecordError] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            records.append(_record_of_line(line, f"{name}:{number}", kinds))
        except RecordError as error:
            damaged.append(error)
    if last:
        with contextlib.suppress(RecordError):
            records.append(_record_of_line(last, name, kinds))
    return Lines(tuple(records), tuple(damaged))


def _record_of_line(line: bytes, where: str, kinds: tuple[type[R], ...]) -> R:
    try:
        value = json.loads(_text(line, where))
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where}: {_invalid(error)}") from error
    if kinds[0].KIND is None:
        return kinds[0].from_json(value, where)
    if not isinstance(value, dict):
        raise RecordError(f"{where}: found {shown(value)}, expected a JSON object")
    found = value.get("kind")
    for kind in kinds:
        if found == kind.KIND:
            return kind.from_json(value, where)
    names = ", ".join(str(kind.KIND) for kind in kinds)
    raise RecordError(f"{where}: kind: {found_or_missing(value, 'kind')}, expected one of {names}")


def _content(path: Path) -> bytes:
    try:
        return read_file(path)
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
    """`:3` if line 3 of a JSON text has the first part of `key`; an empty string if no line has it."""
    name = json.dumps(key.partition(".")[0], ensure_ascii=False)
    for number, line in enumerate(text.split("\n"), 1):
        if key and line.lstrip().startswith(f"{name}:"):
            return f":{number}"
    return ""


def _invalid(error: ValueError | RecursionError) -> str:
    at = f" at column {error.colno} ({error.msg})" if isinstance(error, json.JSONDecodeError) else f" ({error})"
    return f"found invalid JSON{at}, expected one JSON object"
