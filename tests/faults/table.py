"""`pytest --faults`: runs only the tests that break something on purpose, and prints a table of what came out.

A test is marked with the number of the fault in docs/reliability.md and with what breaks. It may record the properties
`tries` (default: each test is one try) and `steps_lost`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

_COLUMNS = ("#", "fault", "tries", "steps lost", "outcome")


@dataclass
class _Row:
    tries: int = 0
    lost: set[str] = field(default_factory=set)
    passed: int = 0
    failed: int = 0


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep only the tests of faults, and note in each which fault it is, so that its report carries it."""
    chosen = []
    for item in items:
        for mark in item.iter_markers("fault"):
            number, what = mark.args
            item.user_properties.append(("fault", json.dumps([number, what])))
        if any(name == "fault" for name, _ in item.user_properties):
            chosen.append(item)
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def table(reports: Iterable[pytest.TestReport]) -> list[str]:
    """Return the lines of the table, in the order of the faults' numbers."""
    rows: dict[tuple[int, str], _Row] = {}
    for report in reports:
        found = [(name, str(value)) for name, value in report.user_properties]
        values = dict(found)
        for number, what in (json.loads(value) for name, value in found if name == "fault"):
            row = rows.setdefault((number, what), _Row())
            row.tries += int(values.get("tries", "1"))
            row.lost |= {values["steps_lost"]} if "steps_lost" in values else set()
            row.passed += report.passed
            row.failed += report.failed
    cells = [
        (str(number), what, str(row.tries), ", ".join(sorted(row.lost)) or "-", "FAILED" if row.failed else "as stated")
        for (number, what), row in sorted(rows.items())
    ]
    widths = [max(len(line[column]) for line in [_COLUMNS, *cells]) for column in range(len(_COLUMNS))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [_COLUMNS, *cells]
    ]
