"""Where runs stand: from their own files, one call of squeue and one of sacct, whatever their number."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jobs import environment, programs
from jobs.plan.spec import STAGES, Stage
from jobs.plan.stages import is_there, is_trained, items
from jobs.slurm import queue
from jobs.slurm.submit import submitted_jobs
from jobs.worker.attempts import read_state
from trex.config import Config
from trex.errors import TrexError
from trex.files import read_lines
from trex.records.manifest import newest_manifest
from trex.records.run_dir import RunDir

State = Literal["done", "running", "waiting", "failed", "gone", "open", "stale"]
#: Which state of its parts a stage shows, the most pressing first.
_PRESSING: tuple[State, ...] = ("failed", "gone", "running", "waiting", "open", "stale", "done")


@dataclass(frozen=True)
class Record:
    """What accounting says of one start of a job."""

    job_id: str
    state: str  #: COMPLETED, REQUEUED, NODE_FAIL, …
    seconds: int


@dataclass(frozen=True)
class Slurm:
    """Slurm's answers; empty where it does not answer."""

    jobs: dict[tuple[str, str], queue.QueuedJob]  #: by job id and comment
    records: dict[str, list[Record]]  #: starts of each job, oldest first
    answers: bool  #: False: nothing can be said about what is not in the queue
    accounting: bool


@dataclass(frozen=True)
class JobStatus:
    """One job of a stage, or one element of its array."""

    key: str
    state: State
    job: str | None
    why: str  #: why it waits, failed or is gone


@dataclass
class StageStatus:
    """A stage with all its parts, of which there is at least one."""

    stage: str
    parts: list[JobStatus]

    @property
    def state(self) -> State:
        """The most pressing state of its parts."""
        return next(state for state in _PRESSING if any(part.state == state for part in self.parts))

    @property
    def done(self) -> int:
        """How many parts are done."""
        return sum(part.state == "done" for part in self.parts)

    @property
    def why(self) -> str:
        """The first reason among the parts in that state."""
        return next((part.why for part in self.parts if part.state == self.state and part.why), "")


@dataclass
class RunStatus:
    """A run."""

    name: str
    path: str
    stages: list[StageStatus] = field(default_factory=list)
    epoch: float | None = None
    epochs: int = 0
    step: int | None = None
    steps: int | None = None
    images_per_second: float | None = None
    seconds_left: float | None = None
    restarts: int = 0
    stops: list[str] = field(default_factory=list)  #: why each start but the current one ended
    allocated_seconds: float = 0.0
    kept_seconds: float = 0.0

    @property
    def goodput(self) -> float | None:
        """Share of the training's allocated time that became steps which were kept."""
        return min(self.kept_seconds / self.allocated_seconds, 1.0) if self.allocated_seconds else None

    @property
    def advice(self) -> str:
        """The command that continues the run, where it does not go on by itself."""
        stuck = any(stage.state in ("failed", "gone") for stage in self.stages)
        return f"trex retry {self.name}" if stuck else ""


def ask_slurm(runs: Sequence[RunDir]) -> Slurm:
    """One squeue and one sacct for all the jobs of `runs`; none of them if nothing was submitted."""
    places = [place for run in runs for _, place in submitted_jobs(run)]
    if not places:
        return Slurm({}, {}, answers=True, accounting=False)
    try:
        jobs = {(job.job_id, job.comment): job for job in queue.queued_jobs()}
    except TrexError:
        return Slurm({}, {}, answers=False, accounting=False)
    ids = ",".join(sorted({job_id.partition("_")[0] for job_id, _ in places}))
    words = ["sacct", "--duplicates", "--allocations", "--noheader", "--parsable2", f"--jobs={ids}"]
    whole = {**environment.outside_allocation(), "SLURM_BITSTR_LEN": "0"}  # else long lists of elements end in dots
    answer = programs.run([*words, "--format=JobID,State,ElapsedRaw"], timeout=60, env=whole)
    records: dict[str, list[Record]] = {}
    for line in answer.stdout.splitlines() if answer.ok else []:
        job_id, state, seconds = line.split("|")[:3]
        for one in queue.elements(job_id):
            records.setdefault(one, []).append(Record(one, state.split()[0], int(seconds or 0)))
    return Slurm(jobs, records, answers=True, accounting=answer.ok)


def status_of(run: RunDir, config: Config, slurm: Slurm) -> RunStatus:
    """Put together what is known of one run."""
    status = RunStatus(run.name, str(run.root), epochs=config.train.epochs)
    places = submitted_jobs(run)
    queued = {key: place for key, place in places if place in slurm.jobs}
    submitted = dict(places) | queued  # the newest of each key; what is in the queue comes first
    for stage in STAGES:
        if stage == "train" and config.extract.weights != "trained" and "train" not in submitted:
            continue
        finished = _finished(run, config, stage)
        parts = [_part(run, key, is_finished, submitted, slurm) for key, is_finished in finished.items()]
        if parts:  # without datasets there is nothing to extract and to probe
            status.stages.append(StageStatus(stage, parts))
    _read_progress(run, config, status)
    _read_attempts(run, status, slurm)
    return status


def _finished(run: RunDir, config: Config, stage: Stage) -> dict[str, bool]:
    """Whether each part of a stage is done, by the key of its state file."""
    if stage == "train":
        return {stage: is_trained(run)}
    if stage == "report":
        return {stage: is_reported(run)}
    return {f"{stage}-{item.name}": is_there(run, config, stage, item) for item in items(stage, config)}


def is_reported(run: RunDir) -> bool:
    """Whether there is a report that is no older than the results and the training's metrics."""
    page = run.report / "index.html"
    if not page.exists():
        return False
    sources = [run.metrics, *run.root.glob("probes/*/*/seed_*.json")]
    return all(path.stat().st_mtime_ns <= page.stat().st_mtime_ns for path in sources if path.exists())


def _part(run: RunDir, key: str, finished: bool, submitted: dict[str, tuple[str, str]], slurm: Slurm) -> JobStatus:
    """One part's state: what is on disk counts first, then the queue, then what its last start left."""
    place = submitted.get(key)
    recorded = read_state(run, key)
    queued = slurm.jobs.get(place) if place else None
    if queued is not None and not (finished and queued.state == "PENDING"):
        if queued.state == "PENDING":
            return JobStatus(key, "waiting", queued.job_id, queued.reason)
        return JobStatus(key, "running", queued.job_id, f"on {queued.nodes} for {queued.elapsed}, {queued.left} left")
    if finished:
        return JobStatus(key, "done", place[0] if place else None, "")
    if key == "report" and (run.report / "index.html").exists() and (recorded or {}).get("state", "done") == "done":
        return JobStatus(key, "stale", None, f"older than the results: trex report {run.name} renews it")
    if recorded is None and place is None:
        return JobStatus(key, "open", None, "")
    if place is None or (recorded is not None and _is_newer(recorded["job"], place[0])):
        return _local_part(run, key, recorded or {})
    return _vanished(key, place[0], recorded, slurm)


def _is_newer(job: str, submitted: str) -> bool:
    """Whether a state was left by a job of this machine after the last submission."""
    return job != submitted and not job.startswith(submitted.partition("_")[0])


def _local_part(run: RunDir, key: str, recorded: dict[str, Any]) -> JobStatus:
    if recorded.get("state") == "running":
        running = (run.jobs / f"{key}.lock").exists()
        return JobStatus(
            key, "running" if running else "gone", recorded["job"], "on this machine" if running else "died"
        )
    if recorded.get("state") == "failed":
        return JobStatus(key, "failed", recorded["job"], str(recorded.get("reason", "")))
    return JobStatus(key, "gone", recorded.get("job"), str(recorded.get("reason", "")))


def _vanished(key: str, job: str, recorded: dict[str, Any] | None, slurm: Slurm) -> JobStatus:
    """A submitted job that is in the queue no more, and did not finish."""
    if not slurm.answers:
        return JobStatus(key, "waiting", job, "Slurm does not answer: not known whether it is in the queue")
    records = slurm.records.get(job) or slurm.records.get(job.partition("_")[0], [])
    ending = f"ended as {records[-1].state}" if records else "is in the queue no more"
    mine = recorded if recorded is not None and recorded["job"] == job else None
    if mine is not None and mine["state"] == "failed":
        return JobStatus(key, "failed", job, str(mine["reason"]))
    if mine is not None and mine["state"] == "wants_requeue":
        return JobStatus(key, "gone", job, f"{ending}; {mine['reason']}")
    return JobStatus(key, "gone", job, f"{ending}{'' if mine else ' before it began'}")


def _read_progress(run: RunDir, config: Config, status: RunStatus) -> None:
    """Epoch, step and speed from the metrics, which hold kept steps only."""
    lines = [line for line in read_lines(run.metrics) if line.get("kind") == "train"]
    before = 0
    for line in lines:
        if line["images_per_second"]:
            status.kept_seconds += (line["step"] - before) * config.train.batch_size / line["images_per_second"]
        before = line["step"]
    if lines:
        last = lines[-1]
        status.step, status.epoch, status.images_per_second = last["step"], last["epoch"], last["images_per_second"]
        status.steps = round(last["step"] / last["epoch"]) * config.train.epochs if last["epoch"] else None
    newest = newest_manifest(run.checkpoints)
    if newest is not None:
        status.step = max(newest[1]["step"], status.step or 0)
    if status.steps and status.step is not None and status.images_per_second:
        seconds = (status.steps - status.step) * config.train.batch_size / status.images_per_second
        status.seconds_left = max(seconds, 0.0)


def _read_attempts(run: RunDir, status: RunStatus, slurm: Slurm) -> None:
    """Restarts of the training, why each start ended, and the time that all of them held."""
    starts: list[dict[str, Any]] = []
    for event in read_lines(run.events):
        if event.get("stage") != "train":
            continue
        if event.get("event") == "attempt_started":
            starts.append({"start": event, "end": None})
        elif event.get("event") == "attempt_ended" and starts:
            starts[-1]["end"] = event
    status.restarts = max(len(starts) - 1, 0)
    for one in starts:
        one["record"] = _record(one["start"], slurm)
        if one is not starts[-1]:
            status.stops.append(_why(one))
    status.allocated_seconds = sum(_held(one, status, is_last=one is starts[-1]) for one in starts)


def _record(start: dict[str, Any], slurm: Slurm) -> Record | None:
    records = slurm.records.get(str(start["job"]), [])
    return records[start["restart"]] if start["restart"] < len(records) else None


def _why(attempt: dict[str, Any]) -> str:
    end, record = attempt["end"], attempt["record"]
    signals = {"SIGTERM": "preempted or cancelled", "SIGUSR2": "time limit or preemption", "SIGINT": "Ctrl-C"}
    if end is None:
        return f"died ({record.state})" if record is not None else "died without a word"
    if end["code"] == 75:
        return f"{signals.get(end.get('signal', ''), 'told to stop')}, {end['reason'].partition(';')[0]}"
    return str(end["reason"])


def _held(attempt: dict[str, Any], status: RunStatus, is_last: bool) -> float:
    """Seconds of an attempt's allocation: as accounting says, else as its own records do."""
    if attempt["record"] is not None:
        return float(attempt["record"].seconds)
    if attempt["end"] is not None:
        return float(attempt["end"]["seconds"])
    running = is_last and any(stage.stage == "train" and stage.state == "running" for stage in status.stages)
    return time.time() - attempt["start"]["time"] if running else 0.0
