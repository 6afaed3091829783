"""Accuracy of each class of a dataset, and what it is taken for."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from statistics import mean

from trex.errors import UserError
from trex.reporting.collect import Cell, RunData
from trex.reporting.tables import aligned, harmless

HEAD = ("class", "test images", "accuracy, %", "taken for (share of its images)")
_MOST = 3  #: classes that another is taken for


def class_rows(cell: Cell) -> list[tuple[str, str, str, str]]:
    """A row a class that has test images, the lowest accuracy first; all figures are means over the seeds."""
    taken: dict[int, Counter[int]] = {}
    for result in cell.results:
        for true, predicted, count in result["test"]["confusion"]:
            taken.setdefault(true, Counter())[predicted] += count
    names, seeds = cell.results[0]["classes"], len(cell.results)
    per_class = [result["test"]["per_class"] for result in cell.results]
    rows = []
    for accuracy, label in sorted((mean(one[i] for one in per_class), i) for i in sorted(taken)):
        images = taken[label].total()
        wrong = [(other, count) for other, count in taken[label].most_common(_MOST + 1) if other != label][:_MOST]
        words = ", ".join(f"{names[other]} {100 * count / images:.0f} %" for other, count in wrong)
        rows.append((names[label], str(images // seeds), f"{100 * accuracy:.1f}", words))
    return rows


def classes_text(runs: Sequence[RunData], dataset: str) -> str:
    """Every class of a dataset, for each run and kind of probe, as aligned plain text.

    Raises:
        UserError: if no run has results of that dataset.
    """
    blocks = []
    for run, kind, cell in _cells(runs, dataset):
        rows = class_rows(cell)
        average = 100 * mean(result["test"]["mean_per_class"] for result in cell.results)
        head = f"{run.name}: {dataset}, {kind}: mean per-class accuracy {average:.1f} % over {len(rows)} classes"
        blocks.append("\n".join([head, *aligned([HEAD, *rows], left=(0, 3))]))
    return "\n\n".join(blocks)


def confusion_csv(runs: Sequence[RunData], dataset: str) -> str:
    """The confusion matrix of a dataset as a table: how many test images of a class were taken for which, a line each.

    Raises:
        UserError: if no run has results of that dataset.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", "probe", "seed", "class", "predicted", "images"])
    for run, kind, cell in _cells(runs, dataset):
        for result in cell.results:
            for true, predicted, count in result["test"]["confusion"]:
                names = result["classes"]
                line = [run.name, kind, result["seed"], names[true], names[predicted], count]
                writer.writerow([harmless(value) for value in line])
    return out.getvalue()


def _cells(runs: Sequence[RunData], dataset: str) -> list[tuple[RunData, str, Cell]]:
    found = [(run, kind, cell) for run in runs for (kind, name), cell in sorted(run.cells.items()) if name == dataset]
    if not found:
        known = sorted({name for run in runs for _, name in run.cells})
        raise UserError(f"no probe results of {dataset!r}; there are some of: {', '.join(known) or 'no dataset'}")
    return found
