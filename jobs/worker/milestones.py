"""Lets a training have its milestones evaluated: rank 0 starts `python -m jobs.milestones` after it has saved one.

With a queue, that program submits jobs, which takes seconds, and the training continues at once. On this machine, it
does the work itself, and the training waits for it between two epochs. It is a process of its own, so that it can never
delay or fail the training. What it prints is in runs/<name>/jobs/milestones.log.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import sys
import time

from jobs import environment, programs
from jobs.worker.place import Site, Task
from trex.records.manifest import milestones
from trex.records.run_dir import RunDir

log = logging.getLogger(__name__)

#: A submission that takes longer is ended. The next milestone tries again.
SECONDS_TO_SUBMIT = 180.0
#: How long the end of the training waits for a submission, and how long an interruption does.
SECONDS_AT_THE_END, SECONDS_IF_INTERRUPTED = 60.0, 5.0
#: How long to wait for a program that was asked to end, before it is killed.
_SECONDS_TO_END = 60.0


class MilestoneJobs:
    """The `Evaluation` of a training in a job (trex/training/evaluation.py)."""

    def __init__(self, run: RunDir, task: Task, site: Site) -> None:
        self._run, self._task = run, task
        self._has_queue = site.has_queue(task)
        self._process: programs.Process | None = None
        self._deadline = 0.0
        self._log_position = 0
        self._again = False

    def start(self) -> None:
        """Start the program if there are milestones, or start it again after the one that still runs."""
        if self._process is not None:
            self._again = True
            return
        safe_path = ["-P"] if sys.flags.safe_path else []  # import the same code as this process
        words = [sys.executable, *safe_path, "-m", "jobs.milestones", str(self._run.root), self._task.backend]
        path = self._run.milestones_log
        try:
            if not milestones(self._run.checkpoints):
                return
            self._log_position = path.stat().st_size if path.exists() else 0
            self._process = programs.start([*words, str(self._task.world)], environment.variables(), path)
        except OSError as error:
            self._warn(str(error))
            return
        self._deadline = time.monotonic() + SECONDS_TO_SUBMIT
        if not self._has_queue:
            log.info("evaluating milestones before the training continues; log: %s", path)

    def holds_training(self) -> bool:
        """Return whether the program evaluates on this machine now. Ends a submission that takes too long."""
        if self._process is None:
            return False
        code = self._process.poll()
        if code is None:
            if not self._has_queue:
                return True
            if time.monotonic() < self._deadline:
                return False
            self._process.kill()
            self._process.wait()
            self._process = None
            self._warn(f"no success within {SECONDS_TO_SUBMIT:g} s")
            return False
        self._process = None
        if code:
            self._warn(self._last_line() or f"exit code {code}")
        return self._start_again()

    def _start_again(self) -> bool:
        """Start the program if this was asked for while it ran. Returns whether the training has to wait for it."""
        if not self._again:
            return False
        self._again = False
        self.start()
        return self._process is not None and not self._has_queue

    def finish(self) -> None:
        """Wait for a submission, for a limited time."""
        self._wait(SECONDS_AT_THE_END)

    def stop(self) -> None:
        """Give a submission a moment, then end the program. Evaluation on this machine saves what it has."""
        if self._has_queue:
            self._wait(SECONDS_IF_INTERRUPTED)
        if self._process is None or self._process.poll() is not None:
            return
        if self._has_queue:
            self._warn("the training ended before they were submitted")
        self._process.terminate()
        with contextlib.suppress(programs.TimeoutExpired):
            self._process.wait(0.0 if self._has_queue else _SECONDS_TO_END)
        self._process.kill()
        self._process = None

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._process is not None and time.monotonic() < deadline:
            self.holds_training()
            time.sleep(0.05)

    def _warn(self, reason: str) -> None:
        log.warning(
            "the milestones could not be evaluated (%s): the training continues. The next milestone or restart tries "
            "again, and so does: trex retry %s", reason, shlex.quote(str(self._run.root)),
        )  # fmt: skip

    def _last_line(self) -> str:
        """Return the last line that the program printed."""
        with contextlib.suppress(OSError), self._run.milestones_log.open("rb") as file:
            file.seek(self._log_position)
            lines = file.read().decode(errors="replace").strip().splitlines()
            return lines[-1] if lines else ""
        return ""
