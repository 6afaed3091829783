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
from jobs.plan.spec import Item, TaskSpec
from jobs.worker.lock import locked
from trex.errors import ExitCode, NoProgress
from trex.files import append_line, read_json, read_lines, write_json
from trex.records.run_dir import RunDir

State = Literal["running", "done", "wants_requeue", "failed"]

#: So many starts of one job in a row without anything new on disk, and it is not started again.
MAX_STARTS_WITHOUT_PROGRESS = 5

#: What the main rank waits for the record of another one, when that one is lost.
SECONDS_FOR_A_RECORD = 5.0

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


def record_failure(run: RunDir, spec: TaskSpec, task: Task, code: ExitCode, reason: str) -> None:
    """Say why a rank other than the main one failed: that one waits for it, and may be killed before it finds out."""
    for key in spec.keys:
        value = read_state(run, key)
        if value is not None and value["state"] == "running" and _is_of(value, task):
            failed = {"state": "failed", "code": int(code), "reason": f"rank {task.rank} on {task.node}: {reason}"}
            write_json(state_path(run, key), {**value, **failed, "time": round(time.time(), 3)})


def _is_of(value: dict[str, Any], task: Task) -> bool:
    return (value.get("job"), value.get("restart")) == (task.job_id, task.restart)


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
        """Record that one of several datasets is done."""
        key = f"{self.spec.stage}-{item.name}"
        self.open_keys.remove(key)
        self._write_state(key, "done", ExitCode.DONE, "finished")

    def end(self, code: ExitCode, reason: str, signal: str | None, died: bool = False) -> None:
        """Record the end: exit code, why, and the signal that came, if one did. Nothing was started where another job
        holds the lock. Where another process `died`, the state stays as that of a job whose processes are killed: how
        that one ended decides whether the job goes on. Where another one failed, and this one was told to stop for it,
        that one's record stays.
        """
        if not self.started:
            return
        for key in self.open_keys if not died else ():
            if code != ExitCode.INTERRUPTED or self._failure(key) is None:
                self._write_state(key, _STATES.get(code, "failed"), code, reason)
        seconds = round(time.time() - self.began, 3)
        values = {"code": int(code), "reason": reason, "signal": signal, "mark": self.mark(), "seconds": seconds}
        self._event("attempt_ended", **values)

    def failure_of_another(self) -> tuple[ExitCode, str] | None:
        """What a rank recorded that failed, by `record_failure`; it may still be on its way through the file system."""
        deadline = time.monotonic() + SECONDS_FOR_A_RECORD
        while time.monotonic() < deadline:
            for failure in filter(None, map(self._failure, self.open_keys)):
                return failure
            time.sleep(0.1)
        return None

    def _failure(self, key: str) -> tuple[ExitCode, str] | None:
        """What is recorded of this very start if it failed."""
        value = read_state(self.run, key)
        if value is not None and value["state"] == "failed" and _is_of(value, self.task):
            return ExitCode(value["code"]), str(value["reason"])
        return None

    def mark(self) -> str:
        """What the stage has on disk, in short; it differs as soon as something new is there."""
        if self.spec.stage == "train":
            return max((path.name for path in self.run.checkpoints.glob("epoch-*")), default="nothing")
        sizes = [path.stat().st_size for item in self.spec.items for path in self._files(item)]
        return f"{len(sizes)} files of {sum(sizes)} bytes"

    def _files(self, item: Item) -> Iterator[Path]:
        """What an item has on disk; other seeds of the same dataset are another job's."""
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
