"""What became of each stage of a run: a small state file that scripts and people read, and a line an attempt.

runs/<name>/jobs/<key>.state.json   where the stage stands now; the batch script reads it to decide about a requeue
runs/<name>/events.jsonl            attempt_started and attempt_ended, with why
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from jobs.environment import Task
from jobs.lock import locked
from jobs.spec import Item, TaskSpec
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


class Attempt:
    """One start of one job of a run; the main rank keeps its records."""

    def __init__(self, run: RunDir, spec: TaskSpec, task: Task) -> None:
        self.run, self.spec, self.task = run, spec, task
        self.keys = spec.keys
        self.open_keys = list(self.keys)
        self.began = time.time()
        self.began_with = self.mark()
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
        mark = self.began_with = self.mark()
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

    def finish_item(self, item: Item) -> None:
        """Record that one of several data sets is done."""
        key = f"{self.spec.stage}-{item.name}"
        self.open_keys.remove(key)
        self._write_state(key, "done", ExitCode.DONE, "finished")

    def end(self, code: ExitCode, reason: str, signal: str | None) -> None:
        """Record the end: exit code, why, and the signal that came, if one did. Nothing was started where another job
        holds the lock.
        """
        if not self.started:
            return
        for key in self.open_keys:
            self._write_state(key, _STATES.get(code, "failed"), code, reason)
        seconds = round(time.time() - self.began, 3)
        values = {"code": int(code), "reason": reason, "signal": signal, "mark": self.mark(), "seconds": seconds}
        self._event("attempt_ended", **values)

    def mark(self) -> str:
        """What the stage has on disk, in short; it differs as soon as something new is there."""
        if self.spec.stage == "train":
            return max((path.name for path in self.run.checkpoints.glob("epoch-*")), default="nothing")
        sizes = [path.stat().st_size for item in self.spec.items for path in self._files(item)]
        return f"{len(sizes)} files of {sum(sizes)} bytes"

    def _files(self, item: Item) -> Iterator[Path]:
        """What an item has on disk; other seeds of the same data set are another job's."""
        probe = self.spec.stage == "probe"
        folder = self.run.probes(item.dataset) if probe else self.run.features(item.dataset, "test").parent
        for path in folder.rglob("*"):
            seed = re.search(r"seed_(\d+)", path.name)
            if path.is_file() and not (item.seeds and seed and int(seed[1]) not in item.seeds):
                yield path

    def _events(self, name: str) -> list[dict[str, Any]]:
        lines = read_lines(self.run.events)
        return [line for line in lines if line.get("event") == name and line.get("keys") == list(self.keys)]

    def _event(self, name: str, **values: Any) -> None:
        line = {
            "event": name, "time": round(time.time(), 3), "stage": self.spec.stage, "keys": list(self.keys),
            "job": self.task.job_id, "restart": self.task.restart, **values,
        }  # fmt: skip
        append_line(self.run.events, line)

    def _write_state(self, key: str, state: State, code: ExitCode | None, reason: str) -> None:
        value = {
            "state": state, "code": None if code is None else int(code), "reason": reason, "job": self.task.job_id,
            "restart": self.task.restart, "time": round(time.time(), 3), "mark": self.began_with,
        }  # fmt: skip
        write_json(state_path(self.run, key), value)
