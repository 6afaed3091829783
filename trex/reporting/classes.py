"""The accuracy of each class of a dataset, and the classes that it is confused with."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from statistics import mean

from trex.errors import UserError
from trex.reporting.cell import Cell
from trex.reporting.collect import RunData
from trex.reporting.spreadsheets import escape_formula
from trex.reporting.tables import aligned

HEAD = ("class", "test images", "accuracy, %", "confused with (share of its images)")
_MAX_CONFUSED = 3  #: the most classes that are named as confused with a class


def class_rows(cell: Cell) -> list[tuple[str, str, str, str]]:
    """One row per class with test images, in order of ascending accuracy. All values are means over the seeds."""
    predictions: dict[int, Counter[int]] = {}
    for result in cell.results:
        for true, predicted, count in result.test.confusion:
            predictions.setdefault(true, Counter())[predicted] += count
    names, seeds = cell.class_names, len(cell.results)
    rows = []
    for accuracy, label in sorted((_accuracy(cell, label), label) for label in predictions):
        images = predictions[label].total()
        most = predictions[label].most_common(_MAX_CONFUSED + 1)
        wrong = [(other, count) for other, count in most if other != label][:_MAX_CONFUSED]
        confused = ", ".join(f"{names[other]} {100 * count / max(images, 1):.0f} %" for other, count in wrong)
        rows.append((names[label], str(images // seeds), f"{100 * accuracy:.1f}", confused))
    return rows


def _accuracy(cell: Cell, label: int) -> float:
    """The mean accuracy of one class over the seeds in which it has test images, a fraction."""
    found = [result.test.per_class[label] for result in cell.results]
    return mean(accuracy for accuracy in found if accuracy is not None)


def classes_text(runs: Sequence[RunData], dataset: str) -> str:
    """A plain-text table of the classes of a dataset, for each run and kind of probe.

    Raises:
        UserError: if no run has results on the dataset.
    """
    blocks = []
    for run, kind, cell in _cells(runs, dataset):
        rows = class_rows(cell)
        average = f"mean per-class accuracy {100 * cell.mean_per_class:.1f} % over {len(rows)} classes"
        head = f"{run.name}: {dataset}, {kind}: {average}"
        blocks.append("\n".join([head, *aligned([HEAD, *rows], left=(0, 3))]))
    return "\n\n".join(blocks)


def confusion_csv(runs: Sequence[RunData], dataset: str) -> str:
    """The confusion matrices of a dataset as CSV, with one line per pair of true and predicted class.

    Raises:
        UserError: if no run has results on the dataset.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", "probe", "seed", "class", "predicted", "images"])
    for run, kind, cell in _cells(runs, dataset):
        for result in cell.results:
            for true, predicted, count in result.test.confusion:
                line = [run.name, kind, result.seed, result.classes[true], result.classes[predicted], count]
                writer.writerow([escape_formula(value) for value in line])
    return out.getvalue()


def _cells(runs: Sequence[RunData], dataset: str) -> list[tuple[RunData, str, Cell]]:
    found = [(run, kind, cell) for run in runs for (kind, name), cell in sorted(run.cells.items()) if name == dataset]
    if not found:
        known = sorted({name for run in runs for _, name in run.cells})
        raise UserError(f"no probe results for {dataset!r}. Datasets with results: {', '.join(known) or 'none'}")
    return found
