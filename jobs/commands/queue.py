"""`trex retry` and `trex cancel`: submit a run's failed jobs again, or cancel its jobs."""

from __future__ import annotations

import argparse
import sys

from jobs import launch
from jobs.plan.runs import open_run, require_readable_jobs
from jobs.submissions import backends_of
from trex.errors import ExitCode
from trex.records.submission import Submission


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `trex retry` and `trex cancel`."""
    retry = commands.add_parser(
        "retry",
        help="submit a run's failed or missing jobs again",
        description="Submit those jobs of a run again that failed, disappeared or are missing. Jobs that are done, "
        "waiting or running are left alone.",
    )
    retry.add_argument("run", metavar="RUN", help="a run folder, or its name")
    retry.add_argument("--cluster", metavar="NAME", help="a cluster file (default: the one used last time)")
    retry.add_argument("--dry-run", action="store_true", help="print what would be submitted and create nothing")
    retry.add_argument("--verbose", action="store_true", help="let --dry-run print every batch script completely")
    retry.set_defaults(handler=lambda args: launch.retry(args.run, args.cluster, args.dry_run, args.verbose))
    cancel = commands.add_parser(
        "cancel",
        help="cancel all of a run's jobs; `trex retry` continues them",
        description="Cancel all of a run's jobs in the queue. Running jobs save first, and are not requeued. "
        "`trex retry RUN`, or the command that submitted the jobs, continues them.",
    )
    cancel.add_argument("run", metavar="RUN", help="a run folder, or its name")
    cancel.set_defaults(handler=lambda args: _cancel(args.run))


def _cancel(target: str) -> ExitCode:
    run, _ = open_run(target)
    require_readable_jobs(run)
    keys = [key for backend in backends_of(Submission.of(run).strict()) for key in backend.cancel(run)]
    said = f"cancelled {len(keys)} jobs of {run.name}: {', '.join(dict.fromkeys(keys))}"
    sys.stderr.write(f"trex: {said if keys else f'{run.name} has no jobs in the queue'}\n")
    return ExitCode.DONE
