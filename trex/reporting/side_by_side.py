"""How two runs differ: settings, code and versions, training curves and results, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trex.config import Config, load
from trex.config.loader import to_dict
from trex.errors import TrexError
from trex.records.environment import values_of
from trex.records.metrics import MetricsLine
from trex.records.stage import STAGES
from trex.reporting.collect import RunData
from trex.reporting.compare import comparisons
from trex.reporting.metric import Metric
from trex.reporting.stages import of_stage
from trex.reporting.tables import DIFFERENCES, MISSING, TEXTS_OF_DIFFERENCES, aligned, difference_rows, wrapped

#: Settings that name a run and its place, in which all runs differ.
_NAMES = ("name", "runs")
_CURVES = ("loss", "top1", "top5", "knn", "images_per_second")
Line = tuple[str, str, str]


def side_by_side(one: RunData, other: RunData, metric: Metric) -> str:
    """The differences of two runs as text. What is equal is not shown."""
    parts = (
        ("settings", list(_settings(one, other))),
        ("machines, code and versions", list(_machines(one, other))),
        ("training", list(_curves(one, other))),
    )
    blocks = []
    for title, lines in parts:
        table = aligned([("", one.name, other.name), *lines], left=(0, 1, 2)) if lines else ["no difference"]
        blocks.append("\n".join([title, *table]))
    found = comparisons([one, other], metric)
    results = aligned([*_joined(difference_rows(found, metric))], left=TEXTS_OF_DIFFERENCES) if found else []
    blocks.append("\n".join(["results", *(results or ["no dataset on which both have results"])]))
    return "\n\n".join([*blocks, *(["\n".join(wrapped(DIFFERENCES))] if found else [])])


def _joined(table: tuple[list[str], list[list[str]]]) -> Iterator[Sequence[str]]:
    yield table[0]
    yield from table[1]


def _settings(one: RunData, other: RunData) -> Iterator[Line]:
    try:
        mine, theirs = (dict(_flat(to_dict(load(run.run.config, Config)))) for run in (one, other))
    except (OSError, TrexError) as error:
        yield "not known", str(error), ""
        return
    for name in dict.fromkeys([*mine, *theirs]):
        left, right = mine.get(name, MISSING), theirs.get(name, MISSING)
        if left != right and name not in _NAMES:
            yield name, left, right


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The settings of a config, as `train.epochs` and the text of the value."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _machines(one: RunData, other: RunData) -> Iterator[Line]:
    for stage in STAGES:
        attempts = of_stage(one, stage), of_stage(other, stage)
        if not all(attempts):
            continue
        mine, theirs = (values_of(found) for found in attempts)
        for fact in dict.fromkeys([*mine, *theirs]):
            left, right = (" → ".join(values.get(fact, [])) or MISSING for values in (mine, theirs))
            if left != right:
                yield f"{stage}: {fact}", left, right


def _curves(one: RunData, other: RunData) -> Iterator[Line]:
    """The last value of each metric of both runs, also if they are equal, with its epoch."""
    for phase in ("train", "validation"):
        for key in _CURVES:
            found = [_last(run.metrics, phase, key) for run in (one, other)]
            if any(found):
                texts = (f"{line.values[key]:.4g} (epoch {line.epoch:g})" if line else MISSING for line in found)
                left, right = texts
                yield f"{phase}: {key}", left, right


def _last(metrics: Sequence[MetricsLine], phase: str, key: str) -> MetricsLine | None:
    return next((line for line in reversed(metrics) if line.phase == phase and key in line.values), None)
