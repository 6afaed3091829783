"""Text that a terminal can show: what is escaped, and what stays readable."""

from __future__ import annotations

import io
import random
import sys
import unicodedata

import pytest

from trex.wording import Printable, one_line, printable


@pytest.mark.parametrize(
    "text", ["", "accuracy 71.3 ± 0.4 %", "café, naïve, Å", "中文 日本語 한국어", "e\u0301", "🙂", "a\n\tb"]
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b31m", r"\x9b31m"),
        ("a\rb\x08\x07\x00\x7f", r"a\rb\x08\x07\x00\x7f"),
        ("\u202etxt.exe\u2066", r"\u202etxt.exe\u2066"),
        ("a\u2028b\u200bc\ufeff", r"a\u2028b\u200bc\ufeff"),
        ("\U000e0041", r"\U000e0041"),
        ("caf\udce9", r"caf\xe9"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_a_terminal_obeys_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_every_character_is_harmless_afterwards() -> None:
    """A property of all of Unicode: only newline and tab remain of the controls, and everything can be written."""
    everything = printable("".join(map(chr, range(sys.maxunicode + 1))))
    everything.encode()
    left = {char for char in set(everything) if unicodedata.category(char)[0] == "C" or char in "\u2028\u2029"}
    assert left == {"\n", "\t"}


def test_escaping_twice_is_escaping_once() -> None:
    choose = random.Random(0)
    for _ in range(1000):
        text = "".join(chr(choose.randrange(0x3000)) for _ in range(20))
        assert printable(printable(text)) == printable(text)
        assert len(one_line(text).splitlines()) <= 1


def test_lines_become_one_line() -> None:
    assert one_line("wrong:\n  a → b\r\nFix it.\u2028Now") == "wrong: a → b Fix it. Now"


def test_stream_passes_on_only_printable_text() -> None:
    below = io.StringIO()
    stream = Printable(below)
    assert stream.write("é\x1b\n") == 3
    stream.flush()
    assert below.getvalue() == "é\\x1b\n"
    assert not stream.isatty()
