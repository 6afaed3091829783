"""Jobs on this machine: the same job function that Slurm runs, started through submitit's local executor."""

from __future__ import annotations

import logging
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from jobs import environment
from jobs.plan.spec import TaskSpec
from jobs.worker.attempts import read_state
from jobs.worker.task import outcome_path, run_task
from trex.errors import ExitCode
from trex.files import read_json
from trex.interruption import SIGNALS
from trex.records.run_dir import RunDir

#: submitit ends a local job after its time limit; these have none.
_TEN_YEARS_IN_MINUTES = 10 * 365 * 24 * 60


def run_here(spec: TaskSpec, processes: int = 1, gpus: int = 0, quiet: bool = False) -> ExitCode:
    """Run a job on this machine to its end, showing rank 0's log, and return its exit code.

    Ctrl-C and SIGTERM are passed on to the job, which saves and ends with INTERRUPTED.
    """
    import submitit

    run = RunDir(Path(spec.run))
    folder = run.jobs / "local"
    folder.mkdir(parents=True, exist_ok=True)
    run.jobs.chmod(0o700)
    environment.leave_allocation()
    environment.keep_chosen_gpus()
    _silence_submitit()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    # Born ignoring what it has no handler for, submitit's controller outlives a signal to the whole process group and
    # leaves the tasks their time to save; they catch the signals themselves.
    for number in (signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    stops: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stops.append(number))
    try:
        executor = submitit.LocalExecutor(folder)
        executor.update_parameters(
            tasks_per_node=processes, gpus_per_node=gpus, timeout_min=_TEN_YEARS_IN_MINUTES, stderr_to_stdout=True
        )
        job = executor.submit(run_task, spec)
        _pass_signals_on(job, stops)
        _follow(job, echo=not quiet)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return _outcome(run, spec, job, interrupted=bool(stops))


def _pass_signals_on(job: Any, stops: list[int]) -> None:
    """From now on note stop signals in `stops` and hand them to the job's processes, as those that came before."""

    def forward(number: int, _frame: FrameType | None) -> None:
        stops.append(number)
        job._process.send_signal(signal.SIGTERM)

    for number in SIGNALS:
        signal.signal(number, forward)
    if stops:
        job._process.send_signal(signal.SIGTERM)


def _follow(job: Any, echo: bool) -> None:
    """Print rank 0's log as it grows, until the job's processes have ended."""
    position = 0
    ended = False
    while True:
        path = job.paths.stdout
        if echo and path.exists():
            with path.open("r", encoding="utf-8", errors="replace") as file:
                file.seek(position)
                for line in file:
                    if not line.startswith("submitit "):
                        sys.stdout.write(line)
                position = file.tell()
            sys.stdout.flush()
        if ended:
            return
        ended = job._process.poll() is not None
        time.sleep(0 if ended else 0.1)


def _outcome(run: RunDir, spec: TaskSpec, job: Any, interrupted: bool) -> ExitCode:
    path = outcome_path(run, job.job_id)
    if path.exists():
        return ExitCode(read_json(path)["code"])
    if interrupted:  # before the job could catch the signal: nothing was begun, nothing is lost
        return ExitCode.INTERRUPTED
    for state in (read_state(run, key) for key in spec.keys):
        if state is not None and state["state"] == "failed" and state["job"] == job.job_id:
            sys.stderr.write(f"trex: error: {state['reason']}\n")
            return ExitCode(state["code"])
    log = job.paths.stdout
    sys.stderr.write(f"trex: error: the job's first process died without a word; its log is {log}\n")
    return ExitCode.FAULT


def _silence_submitit() -> None:
    logging.getLogger("submitit").setLevel(logging.ERROR)
