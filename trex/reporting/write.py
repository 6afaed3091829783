"""Writes the report of one or several runs: a web page, CSV, Markdown and LaTeX; and the table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trex.files import write_text
from trex.records.run_dir import RunDir, dataset_folder
from trex.reporting import tables
from trex.reporting.classes import classes_text, confusion_csv
from trex.reporting.collect import collect
from trex.reporting.page import page


def write_report(runs: Sequence[RunDir], folder: Path) -> Path:
    """Write index.html, results.csv, table.md and table.tex to `folder`, and milestones.csv if there are any results at
    milestones. Returns the path of the page.

    Raises:
        UserError: if one of the runs does not exist.
    """
    data = [collect(run) for run in runs]
    write_text(folder / "results.csv", tables.results_csv(data))
    if any(one.milestones for one in data):
        write_text(folder / "milestones.csv", tables.milestones_csv(data))
    write_text(folder / "table.md", tables.markdown(data))
    write_text(folder / "table.tex", tables.latex(data))
    write_text(folder / "index.html", page(data))
    return folder / "index.html"


def class_tables(runs: Sequence[RunDir], dataset: str, folder: Path) -> str:
    """Return the accuracies of a dataset's classes as text, and write `folder`/confusion_<dataset>.csv.

    Raises:
        UserError: if no run has results on the dataset.
    """
    data = [collect(run) for run in runs]
    text = classes_text(data, dataset)
    write_text(folder / f"confusion_{dataset_folder(dataset)}.csv", confusion_csv(data, dataset))
    return text


def text_table(runs: Sequence[RunDir]) -> str:
    """The result tables as plain text with aligned columns. Raises UserError if one of the runs does not exist."""
    return tables.text_table([collect(run) for run in runs])
