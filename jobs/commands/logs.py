"""`trex logs RUN`: prints the log of the newest job of a run."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from jobs.plan.runs import open_run, require_readable_jobs
from jobs.submissions import queued_jobs
from trex.errors import ExitCode, UserError
from trex.records.run_dir import RunDir

#: Seconds between two queries of the queue.
_PAUSE = 2.0


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `trex logs`."""
    parser = commands.add_parser(
        "logs",
        help="print the log of a run's newest job, or of another job or rank",
        description="Print the log of a run's newest job, on a cluster or on this machine. The path of the log is "
        "printed first, to standard error.",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, or its name")
    parser.add_argument(
        "--follow",
        action="store_true",
        help="keep printing new lines; if the job is still in the queue, wait until it starts",
    )
    parser.add_argument("--job", metavar="ID", help="the job, by the id that `trex status` shows (default: the newest)")
    parser.add_argument("--rank", type=int, default=0, metavar="N", help="the rank of the process (default: 0)")
    parser.set_defaults(handler=_logs)


def _logs(args: argparse.Namespace) -> int:
    run, _ = open_run(args.run)
    require_readable_jobs(run)
    path = _wait_for_log(run, args.job, args.rank) if args.follow else log_path(run, args.job, args.rank)
    sys.stderr.write(f"trex: {path}\n")
    position = 0
    while True:
        with path.open("rb") as file:
            file.seek(position)
            sys.stdout.write(file.read().decode(errors="replace"))
            position = file.tell()
        sys.stdout.flush()
        if not args.follow:
            return ExitCode.DONE
        time.sleep(1.0)


def _wait_for_log(run: RunDir, job: str | None, rank: int) -> Path:
    """Wait until the log exists, and return its path as `log_path` does.

    Raises:
        UserError: if it does not exist and no job in the queue could write it.
    """
    may_come, said = True, False
    while True:
        try:
            return log_path(run, job, rank)
        except UserError:
            if not may_come:
                raise
        queued = [one for one in queued_jobs(run) if job in (None, one.job)]
        may_come = bool(queued)  # if False, check once more, because the last job may have run in the meantime
        if may_come and not said:
            first = queued[0]
            sys.stderr.write(
                f"trex: no log yet: job {first.job} is {first.state.value} ({first.about}); waiting until it starts\n"
            )
            said = True
        time.sleep(_PAUSE if may_come else 0)


def log_path(run: RunDir, job: str | None, rank: int) -> Path:
    """Return the newest log of a run's jobs, or of the job `job`.

    Raises:
        UserError: if no such log exists.
    """
    found = run.logs(job, rank)
    if not found:
        what = f"job {job}" if job else "any job"
        raise UserError(
            f"{run.jobs}: no log of {what}, rank {rank}: the job has not started yet, this rank has printed nothing, "
            f"or the job belongs to another run"
        )
    return max(found, key=lambda path: path.stat().st_mtime)
