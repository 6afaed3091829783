"""`pytest --faults`: runs only the tests that docs/reliability.md names, and prints what each of its faults cost.

A test may record the properties `tries` (otherwise each test is one try) and `steps_lost`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
_COLUMNS = ("#", "fault", "tries", "steps lost", "outcome")


@dataclass
class Fault:
    """A row of the table in docs/reliability.md, and what its tests reported."""

    number: str
    what: str
    tests: tuple[str, ...]  #: `path::name`
    tries: int = 0
    lost: set[str] = field(default_factory=set)
    passed: int = 0
    failed: int = 0

    @property
    def outcome(self) -> str:
        if self.failed:
            return f"{self.failed} of {self.failed + self.passed} tests FAILED"
        return "as stated" if self.passed else "not run"


def read_faults() -> list[Fault]:
    """Return the faults of docs/reliability.md: the rows that begin with a number."""
    rows = re.findall(r"^\| (\d+\w?) \| ([^|]+) \|(.*)\|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    return [Fault(number, what.strip(), tuple(re.findall(r"`(tests/\S+?::\w+)`", rest))) for number, what, rest in rows]


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep only the tests of faults."""
    names = {test for fault in read_faults() for test in fault.tests}
    chosen = [item for item in items if _name(item.nodeid) in names]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def table(reports: Iterable[pytest.TestReport]) -> list[str]:
    """Return the lines of the table."""
    faults = read_faults()
    for report in reports:
        values = dict(report.user_properties)
        for fault in faults:
            if _name(report.nodeid) in fault.tests:
                fault.tries += int(str(values.get("tries", 1)))
                fault.lost |= {str(values["steps_lost"])} if "steps_lost" in values else set()
                fault.passed += report.passed
                fault.failed += report.failed
    return _aligned(
        [_COLUMNS]
        + [(one.number, one.what, str(one.tries), ", ".join(sorted(one.lost)) or "-", one.outcome) for one in faults]
    )


def _name(test: str) -> str:
    """Return the name of a test without its parameters."""
    return test.partition("[")[0]


def _aligned(lines: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
