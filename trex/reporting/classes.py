"""The score of each class of a dataset, and the classes that it is confused with."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from statistics import mean

from trex.errors import UserError
from trex.reporting.cell import Cell
from trex.reporting.collect import RunData
from trex.reporting.metric import METRICS
from trex.reporting.spreadsheets import escape_formula
from trex.reporting.tables import aligned
from trex.wording import counted

TEXTS = (0, 3)  #: the columns that hold texts
_MAX_CONFUSED = 3  #: the most classes that are named as confused with a class


def class_rows(cell: Cell) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A header, and one row per class with test images, in order of ascending score. All values are means over seeds.

    The score is the accuracy, with the classes that a class is confused with; or, in a multi-label dataset, the average
    precision.
    """
    if cell.multi_label:
        return ("class", "average precision, %"), _precision_rows(cell)
    return ("class", "test images", "accuracy, %", "confused with (share of its images)"), _accuracy_rows(cell)


def _precision_rows(cell: Cell) -> list[tuple[str, ...]]:
    names = cell.class_names
    known = [label for label in range(len(names)) if any(one.test.per_class[label] is not None for one in cell.results)]
    scores = sorted((_score(cell, label), label) for label in known)
    return [(names[label], f"{100 * score:.1f}") for score, label in scores]


def _accuracy_rows(cell: Cell) -> list[tuple[str, ...]]:
    predictions: dict[int, Counter[int]] = {}
    for result in cell.results:
        for true, predicted, count in result.test.confusion:
            predictions.setdefault(true, Counter())[predicted] += count
    names, seeds = cell.class_names, len(cell.results)
    rows: list[tuple[str, ...]] = []
    for accuracy, label in sorted((_score(cell, label), label) for label in predictions):
        images = predictions[label].total()
        most = predictions[label].most_common(_MAX_CONFUSED + 1)
        wrong = [(other, count) for other, count in most if other != label][:_MAX_CONFUSED]
        confused = ", ".join(f"{names[other]} {100 * count / max(images, 1):.0f} %" for other, count in wrong)
        rows.append((names[label], str(images // seeds), f"{100 * accuracy:.1f}", confused))
    return rows


def _score(cell: Cell, label: int) -> float:
    """The mean score of one class over the seeds in which it has test images, a fraction."""
    found = [result.test.per_class[label] for result in cell.results]
    return mean(score for score in found if score is not None)


def mean_over_classes(cell: Cell) -> str:
    """The mean of the classes' scores, in words."""
    name = "map11" if cell.multi_label else "mean_per_class"
    title = METRICS[name].title
    return f"{title[0].upper()}{title[1:]} {METRICS[name].text(cell.estimates[name].value)} %"


def classes_text(runs: Sequence[RunData], dataset: str) -> str:
    """A plain-text table of the classes of a dataset, for each run and kind of probe.

    Raises:
        UserError: if no run has results on the dataset.
    """
    blocks = []
    for run, kind, cell in _cells(runs, dataset):
        names, rows = class_rows(cell)
        average = mean_over_classes(cell)
        head = f"{run.name}: {dataset}, {kind}: {average[0].lower()}{average[1:]} over {counted(len(rows), 'class')}"
        blocks.append("\n".join([head, *aligned([names, *rows], left=TEXTS)]))
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
