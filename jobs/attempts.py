"""What became of each stage of a run: a small state file that scripts and people read, and a line an attempt.

runs/<name>/jobs/<key>.state.json   where the stage stands now; the batch script reads it to decide about a requeue
runs/<name>/events.jsonl            attempt_started and attempt_ended, with why
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from jobs.environment import Task
from jobs.lock import locked
from trex.errors import ExitCode, NoProgress
from trex.files import append_line, read_json, read_lines, write_json
from trex.rundir import RunDir

State = Literal["running", "done", "wants_requeue", "failed"]

#: So many starts of one job in a row without anything new on disk, and it is not started again.
MAX_STARTS_WITHOUT_PROGRESS = 5

_STATES: dict[ExitCode, State] = {ExitCode.DONE: "done", ExitCode.INTERRUPTED: "wants_requeue"}


def state_path(run: RunDir, key: str) -> Path:
    """The state file of a stage or of one element of its array: `train`, `probe-dtd`, …"""
    return run.jobs / f"{key}.state.json"


def read_state(run: RunDir, key: str) -> dict[str, Any] | None:
    """The stage's state, or None if it never started or its file is not readable."""
    try:
        value = read_json(state_path(run, key))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def keys_of(stage: str, items: Sequence[str]) -> tuple[str, ...]:
    """Names of the state files of a stage: one, or one for each data set that it goes through."""
    return tuple(f"{stage}-{item}" for item in items) if stage in ("extract", "probe") else (stage,)


class Attempt:
    """One start of one job of a run; the main rank keeps its records."""

    def __init__(self, run: RunDir, stage: str, items: Sequence[str], task: Task) -> None:
        self.run, self.stage, self.items, self.task = run, stage, tuple(items), task
        self.keys = keys_of(stage, items)
        self.open_keys = list(self.keys)
        self.began = time.time()
        self.started = False

    def start(self, held: ExitStack) -> None:
        """Take the locks of the stage, to be let go with `held`, and record the start.

        Raises:
            RunLocked: if another living job holds one; nothing is recorded then.
            NoProgress: if the last starts of the same job left nothing new on disk.
        """
        for key in self.keys:
            held.enter_context(locked(self.run.jobs / f"{key}.lock", self.task))
        self.started = True
        mark = self.mark()
        starts = [event for event in self._events("attempt_started") if event.get("job") == self.task.job_id]
        nodes = {"nodes": self.task.node_count, "node": self.task.node, "world": self.task.world}
        self._event("attempt_started", mark=mark, **nodes)
        recent = starts[-MAX_STARTS_WITHOUT_PROGRESS:]
        if len(recent) == MAX_STARTS_WITHOUT_PROGRESS and all(event.get("mark") == mark for event in recent):
            raise NoProgress(
                f"started {MAX_STARTS_WITHOUT_PROGRESS} times without getting any further ({mark}): not requeued any "
                f"more. The logs in {self.run.jobs} say how each attempt ended; mend the cause and submit it again."
            )
        for key in self.keys:
            self._write_state(key, "running", None, "")

    def finish_item(self, item: str) -> None:
        """Record that one of several data sets is done."""
        key = f"{self.stage}-{item}"
        self.open_keys.remove(key)
        self._write_state(key, "done", ExitCode.DONE, "finished")

    def end(self, code: ExitCode, reason: str) -> None:
        """Record the end, with its exit code and why. Nothing was started where another job holds the lock."""
        if not self.started:
            return
        for key in self.open_keys:
            self._write_state(key, _STATES.get(code, "failed"), code, reason)
        seconds = round(time.time() - self.began, 3)
        self._event("attempt_ended", code=int(code), reason=reason, mark=self.mark(), seconds=seconds)

    def mark(self) -> str:
        """What the stage has on disk, in short; it differs as soon as something new is there."""
        if self.stage == "train":
            return max((path.name for path in self.run.checkpoints.glob("epoch-*")), default="nothing")
        count = size = 0
        for item in self.items if self.stage in ("extract", "probe") else ():
            folder = self.run.features(item, "test").parent if self.stage == "extract" else self.run.probes(item)
            for path in folder.rglob("*"):
                if path.is_file():
                    count, size = count + 1, size + path.stat().st_size
        return f"{count} files, {size} bytes"

    def _events(self, name: str) -> list[dict[str, Any]]:
        lines = read_lines(self.run.events)
        return [line for line in lines if line.get("event") == name and line.get("keys") == list(self.keys)]

    def _event(self, name: str, **values: Any) -> None:
        line = {
            "event": name, "time": round(time.time(), 3), "stage": self.stage, "keys": list(self.keys),
            "job": self.task.job_id, "restart": self.task.restart, **values,
        }  # fmt: skip
        append_line(self.run.events, line)

    def _write_state(self, key: str, state: State, code: ExitCode | None, reason: str) -> None:
        value = {
            "state": state, "code": None if code is None else int(code), "reason": reason, "job": self.task.job_id,
            "restart": self.task.restart, "time": round(time.time(), 3),
        }  # fmt: skip
        write_json(state_path(self.run, key), value)
