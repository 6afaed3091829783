"""`trex report`: writes the results of one run, or of several runs for comparison."""

from __future__ import annotations

import argparse
import sys

from jobs.commands.stages import TARGET
from jobs.plan.lookup import path_of
from jobs.plan.runs import open_run
from jobs.submissions import ask
from trex.errors import ExitCode, UserError
from trex.records.run_dir import RunDir
from trex.reporting.metric import METRICS, TOP1


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `trex report`."""
    about = "Write the results of one or several runs as a table, a CSV file and a web page."
    parser = commands.add_parser("report", help=about[0].lower() + about[1:-1], description=about)
    parser.add_argument("targets", nargs="+", metavar="RUN", help=TARGET)
    parser.add_argument("--to", metavar="FOLDER", help="where to write (default: report/ of the first run)")
    parser.add_argument(
        "--metric",
        choices=METRICS,
        default=TOP1.name,
        help="the score in the tables (default: top1); the CSV files have all",
    )
    parser.add_argument(
        "--classes",
        metavar="DATASET",
        help="also show the accuracy and the most frequent confusions of each class of a dataset, and write its "
        "confusion matrix as CSV",
    )
    parser.set_defaults(handler=_report)


def _report(args: argparse.Namespace) -> int:
    from trex.reporting.collect import collect
    from trex.reporting.tables import text_table
    from trex.reporting.write import class_tables, write_report

    runs: list[RunDir] = []
    for target in args.targets:
        run, _ = open_run(target)
        if not run.config.exists():
            raise UserError(f"{run.root}: this run does not exist yet")
        runs.append(run)
    folder = path_of(args.to) if args.to else runs[0].report
    starts, metric = ask(runs).starts, METRICS[args.metric]
    data = [collect(run, starts.get(run.root)) for run in runs]
    page = write_report(data, folder, metric)
    sys.stdout.write(f"{text_table(data, metric)}\nreport: {page}\n")
    if args.classes:
        sys.stdout.write(f"\n{class_tables(data, args.classes, folder)}\n")
    return ExitCode.DONE
