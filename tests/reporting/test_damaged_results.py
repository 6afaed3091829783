"""Result files with random damage: each is read, or listed in the report with its name and the reason."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from tests.reporting.test_report import made_by, result, run  # noqa: F401
from trex.records.base import RecordError
from trex.records.probe_result import ProbeResult, is_made_from
from trex.records.run_dir import RunDir
from trex.reporting import tables
from trex.reporting.classes import classes_text, confusion_csv
from trex.reporting.collect import RunData, collect
from trex.reporting.page import page
from trex.reporting.spreadsheets import cells_csv, results_csv

COUNT = 1200

#: Values to put in place of a value.
JUNK: tuple[Any, ...] = (
    None, True, 0, -1, 2, 1 << 62, 1 << 70, 10**400, 0.5, -0.5, 1e-320, 1e300, float("nan"), float("inf"), "", "x",
    "\0", "\ud800", "</script>", [], {}, [[]], [0, 1, 2], [[0, 0, 1]], {"C": 0}, {"C": -1.0}, {"a": {}},
)  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


def damaged(chance: random.Random, value: dict[str, Any]) -> bytes:
    """The content of a result file with random damage."""
    value = copy.deepcopy(value)
    for _ in range(chance.choice([0, 1, 1, 2])):
        container, key = chance.choice(places(value))
        if isinstance(container, dict) and chance.random() < 0.2:
            del container[key]
        elif isinstance(container, list) and chance.random() < 0.3:
            container.append(copy.deepcopy(container[key]))
        else:
            container[key] = copy.deepcopy(chance.choice(JUNK))
    content = bytearray(json.dumps(value, indent=2).encode())
    kind = chance.random()
    if kind < 0.2:
        del content[chance.randrange(len(content)) :]
    elif kind < 0.6:
        for _ in range(chance.choice([1, 1, 3])):
            content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content)


def everything(data: RunData) -> str:
    """All texts of the report of a run."""
    data = [data]
    texts = [
        page(data),
        tables.text_table(data),
        results_csv(data),
        cells_csv(data),
        tables.latex(data),
        tables.markdown(data),
    ]
    return "\n".join([*texts, classes_text(data, "dtd"), confusion_csv(data, "dtd")])


def test_report_shows_the_good_results_and_names_the_damaged_ones(run: RunDir) -> None:  # noqa: F811
    result(run, "dtd", 0, 0.7)
    result(run, "dtd", 1, 0.8)
    path = run.probe("dtd", "exact", 1)
    good = json.loads(path.read_text())
    chance = random.Random(0)
    read = 0
    for _ in range(COUNT):
        path.write_bytes(damaged(chance, good))
        data = collect(run)
        everything(data).encode()
        try:
            found = ProbeResult.read(path)
        except RecordError as error:
            assert str(error).startswith(str(path))
            assert data.damaged == [str(error)]
        else:
            read += 1
            assert ProbeResult.from_json(found.to_json(), "again") == found
        assert is_made_from(path, made_by()) in (True, False)
    assert 100 < read < COUNT / 2
