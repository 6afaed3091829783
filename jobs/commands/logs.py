"""`trex logs RUN`: what the newest of a run's jobs printed, or prints."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from jobs.plan.runs import open_run
from jobs.submissions import queued_jobs
from trex.errors import ExitCode, UserError
from trex.records.run_dir import RunDir

#: Seconds from one question to the queue to the next.
_PAUSE = 2.0


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `trex logs`."""
    parser = commands.add_parser(
        "logs",
        help="the log of a run's newest job, of one of its datasets or ranks",
        description="Print what the newest of a run's jobs wrote, on a cluster or on this machine; its path comes "
        "first, on the error stream.",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, or just its name")
    parser.add_argument(
        "--follow",
        action="store_true",
        help="continue to print what is added; wait for a job that is in the queue to begin",
    )
    parser.add_argument("--job", metavar="ID", help="another job than the newest, by the id that `trex status` shows")
    parser.add_argument("--rank", type=int, default=0, metavar="N", help="another process than the first")
    parser.set_defaults(handler=_logs)


def _logs(args: argparse.Namespace) -> int:
    run, _ = open_run(args.run)
    path = _log_to_come(run, args.job, args.rank) if args.follow else log_path(run, args.job, args.rank)
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


def _log_to_come(run: RunDir, job: str | None, rank: int) -> Path:
    """`log_path`, as soon as there is one.

    Raises:
        UserError: if there is none, and no job in the queue that could write it.
    """
    may_come, said = True, False
    while True:
        try:
            return log_path(run, job, rank)
        except UserError:
            if not may_come:
                raise
        queued = [one for one in queued_jobs(run) if job in (None, one.job)]
        may_come = bool(queued)  # if not: check once more, for the last may have begun and ended since
        if may_come and not said:
            first = queued[0]
            sys.stderr.write(
                f"trex: no log yet: job {first.job} is {first.state.value} ({first.reason}), waiting for it\n"
            )
            said = True
        time.sleep(_PAUSE if may_come else 0)


def log_path(run: RunDir, job: str | None, rank: int) -> Path:
    """The newest log of a run's jobs, or the one of `job`.

    Raises:
        UserError: if there is none.
    """
    found = run.logs(job, rank)
    if not found:
        what = f"job {job}" if job else "any job"
        raise UserError(f"{run.jobs}: no log of {what}, process {rank}: it has not started yet, or it is another run's")
    return max(found, key=lambda path: path.stat().st_mtime)
