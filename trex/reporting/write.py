"""Writes the report of one or several runs: a web page, CSV, Markdown and LaTeX; and the table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trex.files import write_text
from trex.records.run_dir import dataset_folder
from trex.reporting import spreadsheets, tables
from trex.reporting.classes import classes_text, confusion_csv
from trex.reporting.collect import RunData
from trex.reporting.metric import TOP1, Metric
from trex.reporting.page import page


def write_report(runs: Sequence[RunData], folder: Path, metric: Metric = TOP1) -> Path:
    """Write index.html, the CSV files, table.md and table.tex to `folder`. Returns the path of the page.

    Args:
        runs: the runs.
        folder: where to write.
        metric: the score in the tables. The CSV files have all of them, and so has a part of the page.
    """
    write_text(folder / "results.csv", spreadsheets.results_csv(runs))
    write_text(folder / "cells.csv", spreadsheets.cells_csv(runs))
    if len(runs) > 1:
        write_text(folder / "differences.csv", spreadsheets.differences_csv(runs))
    if any(run.milestones for run in runs):
        write_text(folder / "milestones.csv", spreadsheets.milestones_csv(runs))
    write_text(folder / "table.md", tables.markdown(runs, metric))
    write_text(folder / "table.tex", tables.latex(runs, metric))
    write_text(folder / "index.html", page(runs, metric))
    return folder / "index.html"


def class_tables(runs: Sequence[RunData], dataset: str, folder: Path) -> str:
    """Return the accuracies of a dataset's classes as text, and write `folder`/confusion_<dataset>.csv.

    Raises:
        UserError: if no run has results on the dataset.
    """
    text = classes_text(runs, dataset)
    write_text(folder / f"confusion_{dataset_folder(dataset)}.csv", confusion_csv(runs, dataset))
    return text
