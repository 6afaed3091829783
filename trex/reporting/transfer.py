"""Transfer against epoch: the results at a run's milestones, followed by those of its final encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trex.records.manifest import epoch_of
from trex.reporting.cell import Cell
from trex.reporting.charts import Series, line_chart
from trex.reporting.collect import FIRST_COLUMNS, RunData
from trex.reporting.metric import METRICS

Curve = list[tuple[int, Cell]]  #: results by number of finished epochs, ascending


def curve(run: RunData, kind: str, dataset: str) -> Curve:
    """The results of one run on one dataset with one kind of probe, by epoch; empty without results at a milestone.

    The final result is the last point. Its epoch is read from its provenance, so it is left out if other weights than
    those of a checkpoint at the end of an epoch made it.
    """
    points = {epoch: cells[kind, dataset] for epoch, cells in run.milestones.items() if (kind, dataset) in cells}
    final = run.cells.get((kind, dataset))
    if points and final is not None:
        epoch = epoch_of(final.results[0].provenance.weights.partition(",")[0])
        if epoch is not None:
            points[epoch] = final
    return sorted(points.items())


def kinds(runs: Sequence[RunData]) -> list[str]:
    """The kinds of probes with results at milestones of any of the runs, sorted by name."""
    return sorted({kind for run in runs for cells in run.milestones.values() for kind, _ in cells})


def datasets(runs: Sequence[RunData], kind: str) -> list[str]:
    """The datasets with results at milestones of any of the runs: first the published table's, in its order."""
    present = {name for run in runs for cells in run.milestones.values() for found, name in cells if found == kind}
    known = [name for name in FIRST_COLUMNS if name in present]
    return known + sorted(present - set(known))


def column(runs: Sequence[RunData], kind: str, name: str) -> str:
    """The head of a dataset's column, with a mark if its score is no top-1 accuracy."""
    cells = [cell for run in runs for at in run.milestones.values() for key, cell in at.items() if key == (kind, name)]
    return f"{name} (mAP)" if any(cell.multi_label for cell in cells) else name


@dataclass(frozen=True)
class Row:
    """The results of one run at one epoch."""

    run: str
    epoch: int
    cells: list[Cell | None]  #: one per dataset; None without results


def rows(runs: Sequence[RunData], kind: str) -> list[Row]:
    """The rows of the table for one kind of probe, whose columns are `datasets(runs, kind)`."""
    names, found = datasets(runs, kind), []
    for run in runs:
        curves = [dict(curve(run, kind, name)) for name in names]
        for epoch in sorted({epoch for points in curves for epoch in points}):
            found.append(Row(run.name, epoch, [points.get(epoch) for points in curves]))
    return found


def csv_rows(runs: Sequence[RunData]) -> Iterator[list[str | int | float | None]]:
    """One row per result at a milestone: run, epoch, dataset, kind, seed, all metrics, weights."""
    for run in runs:
        for epoch, cells in sorted(run.milestones.items()):
            for (kind, dataset), cell in sorted(cells.items()):
                for one in cell.results:
                    scores = [getattr(one.test, name) for name in METRICS]
                    yield [run.name, epoch, dataset, kind, one.seed, *scores, one.provenance.weights]


def charts(runs: Sequence[RunData]) -> Iterator[tuple[str, str]]:
    """A caption and a chart per kind of probe and dataset, with one line per run."""
    for kind in kinds(runs):
        for name in datasets(runs, kind):
            series = []
            for color, run in enumerate(runs):
                points = [(float(epoch), 100 * cell.mean) for epoch, cell in curve(run, kind, name)]
                if points:
                    series.append(Series(run.name, points, color))
            label = "top-1, %" if column(runs, kind, name) == name else "mAP, %"
            yield f"{name}, {kind}", line_chart(series, "epoch", label, dots=True)
