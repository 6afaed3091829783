"""Runs a job on this machine: one process per rank, which runs the same code as on Slurm."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, TracebackType

import jobs
from jobs import programs
from jobs.backend import backends
from jobs.local.process import of_rank
from jobs.plan.spec import TaskSpec
from trex.errors import ExitCode
from trex.interruption import SIGNALS
from trex.records.job_state import JobState
from trex.records.rendezvous import Canceled
from trex.records.run_dir import RunDir
from trex.records.typed import encode
from trex.storage import Space

#: After a rank has failed, the others get this time to notice it and to record why. Then they are asked to stop, and
#: after the same time again they are killed, because they may wait in a collective for the rank that is gone.
_SECONDS_TO_END = 30.0

_WAIT = 0.1  #: seconds between two checks of the processes


def run_here(spec: TaskSpec, processes: int = 1, gpus: int = 0) -> ExitCode:
    """Run a job on this machine to its end, print rank 0's log, and return the exit code.

    On Ctrl-C, SIGTERM or SIGUSR2 all ranks are asked to stop; they save and end with INTERRUPTED.
    """
    run = RunDir(Path(spec.run))
    run.local_jobs.mkdir(parents=True, exist_ok=True)
    for one in backends().values():
        one.leave_job()
    job = _job_id(run)
    with _StopSignals() as stop:
        ranks = _start(run, spec, job, processes, gpus)
        stop.pass_on_to(ranks)
        with run.local_log(job, 0).open("r", encoding="utf-8", errors="replace") as log:
            _wait(ranks, lambda: _show(log.read()), lambda rank: _tell(run, spec, job, rank, ranks[rank].returncode))
    for rank in range(1, processes):
        if ranks[rank].returncode in (ExitCode.DONE, ExitCode.INTERRUPTED):  # otherwise a message names its log
            _delete_if_empty(run.local_log(job, rank))
    return _exit_code(run, spec, job, ranks[0].returncode, interrupted=stop.received)


def _job_id(run: RunDir) -> str:
    """Return a job id that no other job of the run has, neither on Slurm nor on this machine."""
    name = time.strftime("local-%Y%m%d-%H%M%S")
    number = 1
    while run.local_log(f"{name}-{number}", 0).exists():
        number += 1
    return f"{name}-{number}"


def _delete_if_empty(log: Path) -> None:
    """Delete the log of a rank that printed nothing, as most do. Otherwise each start of a job leaves its own."""
    with contextlib.suppress(OSError):  # the run folder may be gone or read-only
        if not log.stat().st_size:
            log.unlink()


def _start(run: RunDir, spec: TaskSpec, job: str, processes: int, gpus: int) -> list[programs.Process]:
    in_checkout = Path(jobs.__file__).parents[1] == Path.cwd()  # -P: anybody may write modules into the working folder
    safe_path = [] if in_checkout else ["-P"]
    words = [sys.executable, *safe_path, "-u", "-m", "jobs.local.process", json.dumps(encode(spec))]
    return [
        programs.start(words, of_rank(job, rank, processes, gpus), run.local_log(job, rank))
        for rank in range(processes)
    ]


class _StopSignals:
    """Passes the stop signals on to the ranks during the block.

    The signals are blocked until all ranks are started. The ranks start with the signals blocked and unblock them when
    they can handle them (`StopRequest.install`). So no signal is lost, and none ends a process that is still starting.
    """

    def __init__(self) -> None:
        self.received = False
        self._ranks: Sequence[programs.Process] = ()

    def __enter__(self) -> _StopSignals:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def pass_on_to(self, ranks: Sequence[programs.Process]) -> None:
        """Pass signals on to `ranks` from now on, including those that have arrived already."""
        self._ranks = ranks
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.received = True
        _signal(self._ranks, signal.SIGTERM)


def _signal(ranks: Sequence[programs.Process], number: signal.Signals) -> None:
    for rank in ranks:
        with contextlib.suppress(ProcessLookupError):
            rank.send_signal(number)


def _tell(run: RunDir, spec: TaskSpec, job: str, rank: int, code: int) -> None:
    """Tell the ranks that wait for the first rank that failed how it has ended. Tell the user if it was killed."""
    end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    text = f"rank {rank} {end}; its log is {run.local_log(job, rank)}"
    if code < 0:
        sys.stderr.write(f"trex: {text}\n")
    path = run.canceled(spec.keys[0], job, 0)
    if not path.exists():  # it may have said itself why it ended
        Canceled(text).write(path)


def _wait(ranks: Sequence[programs.Process], meanwhile: Callable[[], None], on_failure: Callable[[int], None]) -> None:
    """Wait until all ranks have ended, and call `meanwhile` regularly. If one rank fails, the others are stopped.

    `on_failure` is called once, with the first rank that fails.
    """
    endings = [signal.SIGTERM, signal.SIGKILL]
    deadline: float | None = None
    while None in (codes := [rank.poll() for rank in ranks]):
        meanwhile()
        failed = [rank for rank, code in enumerate(codes) if code not in (None, ExitCode.DONE, ExitCode.INTERRUPTED)]
        if deadline is None and failed:
            deadline = time.monotonic() + _SECONDS_TO_END
            on_failure(failed[0])
        if deadline is not None and endings and time.monotonic() > deadline:
            _signal(ranks, endings.pop(0))
            deadline = time.monotonic() + _SECONDS_TO_END
        time.sleep(_WAIT)
    meanwhile()


def _show(text: str) -> None:
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()


def _exit_code(run: RunDir, spec: TaskSpec, job: str, code: int, interrupted: bool) -> ExitCode:
    """Return the exit code of the job: rank 0's own, or what another rank recorded if rank 0 was killed."""
    states = [state for state in (JobState.of_or_none(run, key) for key in spec.keys) if state and state.job == job]
    if code == ExitCode.UNWRITABLE and run.root.is_dir() and not any(state.code == code for state in states):
        sys.stderr.write(  # its log is in the run folder, which could not be written
            f"trex: error: {run.root}: a file of the job could not be written, and its log may lack the reason: "
            f"{Space.at(run.root)}. To continue when this is fixed, run the same command again.\n"
        )
    if code in list(ExitCode) and (code != ExitCode.FAULT or states):
        return ExitCode(code)
    if interrupted:  # before the job could handle the signal: no work was started and none is lost
        return ExitCode.INTERRUPTED
    for state in states:
        if state.code:  # recorded by another rank that failed before rank 0 was killed
            sys.stderr.write(f"trex: error: {state.reason}\n")
            return ExitCode(state.code)
    log = run.local_log(job, 0)
    sys.stderr.write(f"trex: error: the job's first process ended without a record; its log is {log}\n")
    return ExitCode.FAULT
