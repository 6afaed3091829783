"""The results as CSV files, with all scores and intervals."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from trex.reporting import transfer
from trex.reporting.cell import Cell, interval
from trex.reporting.collect import RunData
from trex.reporting.compare import comparisons
from trex.reporting.metric import MAP11, METRICS
from trex.reporting.statistics import Interval

#: A value, None for a missing one.
Value = str | int | float | None


def results_csv(runs: Sequence[RunData]) -> str:
    """All results, one line per run, dataset, probe and seed; each interval is that of this seed alone."""
    head = ["run", "dataset", "probe", "seed", *METRICS, *_ends(), "chosen", "comparable", "test_images", "encoder"]
    head += ["preprocessing", "skipped_trainval", "skipped_test"]
    lines: list[list[Value]] = []
    for run, kind, dataset, cell in _cells(runs):
        for number, result in enumerate(cell.results):
            own = cell.predictions[number : number + 1]
            chosen = " ".join(f"{key}={value:g}" for key, value in result.search.best.items())
            lines.append(
                [
                    run.name, dataset, kind, result.seed,
                    *(getattr(result.test, name) for name in METRICS),
                    *(end for name in _INTERVALS for end in _values(interval(own, name))),
                    chosen, result.comparable, result.counts.test, result.provenance.encoder_digest,
                    result.provenance.transform, result.skipped.trainval, result.skipped.test,
                ]
            )  # fmt: skip
    return _csv(head, lines)


def cells_csv(runs: Sequence[RunData]) -> str:
    """The numbers of the tables, one line per run, dataset, probe and metric: mean, interval and spread over seeds."""
    head = ["run", "dataset", "probe", "metric", "seeds", "mean", "low", "high", "sd_over_seeds"]
    lines = [
        [
            run.name, dataset, kind, name, len(cell.results), found.value, *_values(found.interval), found.spread,
        ]
        for run, kind, dataset, cell in _cells(runs)
        for name, found in cell.estimates.items()
    ]  # fmt: skip
    return _csv(head, lines)


def differences_csv(runs: Sequence[RunData]) -> str:
    """The differences between runs, one line per pair of runs, dataset, probe and metric."""
    head = [
        "run", "minus", "probe", "dataset", "metric", "seeds", "difference", "low", "high", "p", "p_holm",
        "seed_error", "problem",
    ]  # fmt: skip
    lines: list[list[Value]] = []
    for metric in METRICS.values():
        for one in comparisons(runs, metric) if metric is not MAP11 else ():  # these are among those of the accuracy
            line: list[Value] = [one.one, one.other, one.kind, one.dataset, one.metric, one.seeds, one.gain]
            lines.append([*line, *_values(one.interval), one.p, one.adjusted_p, one.seed_error, one.problem])
    return _csv(head, lines)


def milestones_csv(runs: Sequence[RunData]) -> str:
    """All results at milestones, one line per run, epoch, dataset, probe and seed."""
    return _csv(["run", "epoch", "dataset", "probe", "seed", *METRICS, "weights"], transfer.csv_rows(runs))


#: The metrics that have an interval.
_INTERVALS = tuple(name for name in METRICS if name != "ece")


def _ends() -> list[str]:
    return [f"{name}_{end}" for name in _INTERVALS for end in ("low", "high")]


def _values(found: Interval | None) -> tuple[Value, Value]:
    return (None, None) if found is None else (found.low, found.high)


def _cells(runs: Sequence[RunData]) -> Iterable[tuple[RunData, str, str, Cell]]:
    for run in runs:
        for (kind, dataset), cell in sorted(run.cells.items(), key=lambda item: item[0]):
            yield run, kind, dataset, cell


def _csv(head: Sequence[str], lines: Iterable[Sequence[Value]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([escape_formula(value) for value in line] for line in lines)
    return out.getvalue()


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def escape_formula(value: object) -> object:
    """Put an apostrophe before a string that a spreadsheet would evaluate as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
