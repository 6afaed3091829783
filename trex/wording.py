"""Parts of messages: a number with its noun, a duration, a suggestion for an unknown name, text for a terminal."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable
from typing import BinaryIO, TextIO

#: Categories of characters that a terminal does not show but obeys, or that change the direction of what follows, or
#: that cannot be written: control, format, not assigned, private, surrogate, line and paragraph separator.
_OBEYED = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}


def counted(count: int, noun: str) -> str:
    """Return a text such as `1 node`, `2 nodes` or `2 processes`."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count} {noun}{ending}"


def duration(seconds: float) -> str:
    """Format a duration: `45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    seconds = max(round(seconds), 0)
    if seconds < 90:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a text such as `; did you mean 'resnet50'?` if `word` is close to one of `known`, else an empty string.

    Upper and lower case count as equal.
    """
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), list(names), n=1)
    return f"; did you mean {names[close[0]]!r}?" if close else ""


def printable(text: str) -> str:
    """Return `text` with every character that could control a terminal as in a Python string, such as `\\x1b`.

    Newlines and tabs stay. A byte of a file name that is not UTF-8 (a surrogate in Python) becomes `\\xe9`.
    """
    return re.sub(r"[^\n\t -~]", lambda found: _escaped(found[0]), text)


def one_line(text: str) -> str:
    """Return `text` as one line that a terminal can show: lines are joined with a space."""
    return printable(" ".join(line.strip() for line in text.splitlines()))


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _OBEYED:
        return character
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


class Printable:
    """A text stream that passes only `printable` text on to another stream.

    The messages of a command quote names of files, configs and records that anybody may have written.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text`; return how many characters it has."""
        self._stream.write(printable(text))
        return len(text)

    def flush(self) -> None:
        """Flush the other stream."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Return whether the other stream is a terminal."""
        return self._stream.isatty()

    @property
    def buffer(self) -> BinaryIO:
        """The other stream's bytes, for what is meant to control the terminal."""
        return self._stream.buffer
