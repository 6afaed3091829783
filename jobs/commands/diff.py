"""`trex diff RUN RUN`: how two runs differ."""

from __future__ import annotations

import argparse
import sys

from jobs.plan.runs import open_run
from trex.errors import ExitCode, UserError
from trex.records.run_dir import RunDir
from trex.reporting.metric import METRICS, TOP1


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `trex diff`."""
    parser = commands.add_parser(
        "diff",
        help="show how two runs differ: settings, code, versions, curves, results",
        description="Show how two runs differ: settings, code and versions of each stage, the last values of the "
        "training curves, and the results with intervals and tests. What is equal is left out.",
    )
    parser.add_argument("one", metavar="RUN", help="a run folder, or its name")
    parser.add_argument("other", metavar="RUN", help="another one")
    parser.add_argument("--metric", choices=METRICS, default=TOP1.name, help="the score of the results (default: top1)")
    parser.set_defaults(handler=lambda args: _diff(args.one, args.other, args.metric))


def _diff(one: str, other: str, metric: str) -> ExitCode:
    from trex.reporting.collect import collect
    from trex.reporting.side_by_side import side_by_side

    first, second = (collect(_existing(target)) for target in (one, other))
    if first.run.root.resolve() == second.run.root.resolve():
        raise UserError(f"{one} and {other} are the same run: {first.run.root}")
    sys.stdout.write(f"{side_by_side(first, second, METRICS[metric])}\n")
    return ExitCode.DONE


def _existing(target: str) -> RunDir:
    run, _ = open_run(target)
    if not run.config.exists():
        raise UserError(f"{run.root}: this run does not exist yet")
    return run
