"""The way of a run through the queue: which jobs its stages become, what waits for what, retrying, cancelling.

    train ──afterok──▶ extract (array, an element a data set) ──afterok──▶ probe (for each data set an array over seeds,
    released as soon as that data set is extracted) ──afterany──▶ report

What is done is not submitted; what is in the queue is not submitted again but waited for. A job whose predecessor
failed is cancelled by Slurm instead of waiting for ever, and the report shows what there is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from jobs import queue
from jobs.attempts import keys_of
from jobs.cluster import Cluster, load_cluster
from jobs.runs import open_run, save_config
from jobs.slurm import Submitter, Work, array_chunks, make_private, submissions_path, submitted_jobs
from jobs.stages import plan
from jobs.task import TaskSpec
from trex.config import Config, load
from trex.config.loader import to_yaml
from trex.errors import ExitCode, UserError
from trex.files import read_lines, write_text
from trex.rundir import RunDir

Send = Callable[[Work], dict[str, str]]


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `trex retry` and `trex cancel`."""
    retry = commands.add_parser(
        "retry",
        help="submit again only what failed or is missing of a run's jobs",
        description="Submit to Slurm again what failed, disappeared or is missing of a run's jobs, and nothing else. "
        "What is done, waits or runs is left alone.",
    )
    retry.add_argument("run", metavar="RUN", help="a run folder, or just its name")
    retry.add_argument("--cluster", metavar="NAME", help="another cluster file than the last time")
    retry.add_argument("--dry-run", action="store_true", help="print what would be submitted and create nothing")
    retry.set_defaults(handler=lambda args: _retry(args.run, args.cluster, args.dry_run))
    cancel = commands.add_parser(
        "cancel",
        help="cancel all of a run's jobs; `trex retry` continues them",
        description="Cancel all of a run's jobs in Slurm's queue. Running ones save first and stay cancelled; "
        "`trex retry RUN`, or the command that submitted them, continues them.",
    )
    cancel.add_argument("run", metavar="RUN", help="a run folder, or just its name")
    cancel.set_defaults(handler=lambda args: _cancel(args.run))


def submit(run: RunDir, config: Config, cluster: Cluster, stage: str, dry_run: bool = False) -> int:
    """Submit a stage, or with `run` the whole chain: what of it is neither done nor in the queue.

    A dry run prints the batch scripts and creates nothing.
    """
    config = cluster.adapt(config)
    todo = plan(run, config, stage)
    for name in todo.done:
        _say(f"{name}: nothing to do")
    return _submit(run, config, cluster, todo.specs, dry_run)


def _submit(run: RunDir, config: Config, cluster: Cluster, specs: Sequence[TaskSpec], dry_run: bool) -> int:
    if [spec.stage for spec in specs] == ["report"] and (run.report / "index.html").exists():
        specs = []  # nothing new to report on
    if not specs:
        _say(f"{run.name}: nothing is missing")
    submitter = Submitter(run, cluster)
    if dry_run:
        send = _printer(submitter)
    else:
        save_config(run, config)
        make_private(run.jobs)
        write_text(cluster_path(run), to_yaml(cluster))
        send = _announcer(submitter)
    _Chain(cluster, send, {} if dry_run else waiting_jobs(run)).submit(specs)
    return ExitCode.DONE


def cluster_path(run: RunDir) -> Path:
    """The cluster file that the run was last submitted with."""
    return run.jobs / "cluster.yaml"


def waiting_jobs(run: RunDir) -> dict[str, queue.QueuedJob]:
    """The jobs of a run that Slurm still holds, by the key of their state file."""
    submitted = submitted_jobs(run)
    if not submitted:
        return {}
    in_queue = {(job.job_id, job.comment): job for job in queue.queued_jobs()}
    return {key: in_queue[place] for key, place in submitted.items() if place in in_queue}


class _Chain:
    """Submits stage after stage, and remembers the job of each key for the stages after it."""

    def __init__(self, cluster: Cluster, send: Send, held: dict[str, queue.QueuedJob]) -> None:
        self.cluster, self.send = cluster, send
        # A job on its way out counts as gone; whoever takes over waits for its end.
        self.jobs = {key: job.job_id for key, job in held.items() if job.state != "COMPLETING"}
        self.leaving = {key: job.job_id for key, job in held.items() if job.state == "COMPLETING"}

    def submit(self, specs: Sequence[TaskSpec]) -> None:
        """Submit the stages in their order."""
        for spec in specs:
            if spec.stage == "train":
                self.put([spec])
            elif spec.stage == "extract":
                self.put(_one_each(spec), _when("afterok", self.ids("train")), self.cluster.extract.max_parallel)
            elif spec.stage == "probe":
                self.probe(spec)
            else:
                self.put([spec], _when("afterany", self.jobs.values()))

    def probe(self, spec: TaskSpec) -> None:
        """One array for the data sets whose features are there; one for each other, to start when they are."""
        groups: dict[str, list[TaskSpec]] = {}
        for one in _one_each(spec):
            dependency = _when("afterok", self.ids(*keys_of("extract", one.items)))
            groups.setdefault(dependency, []).append(one)
        limit = self.cluster.probe.max_parallel
        for dependency, specs in groups.items():
            self.put(specs, dependency, max(limit // len(groups), 1) if limit else 0)

    def put(self, specs: Sequence[TaskSpec], dependency: str = "", parallel: int = 0) -> None:
        """Submit what of `specs` is not on its way."""
        new = [spec for spec in specs if _key(spec) not in self.jobs]
        for spec in specs:
            if spec not in new:
                _say(f"{_key(spec)}: in the queue already, job {self.jobs[_key(spec)]}")
        chunks = list(array_chunks(new, self.cluster))
        for chunk in chunks:
            leaving = [self.leaving[_key(spec)] for spec in chunk if _key(spec) in self.leaving]
            waits = ",".join(filter(None, [dependency, _when("afterany", leaving)]))
            share = max(parallel // len(chunks), 1) if parallel else 0
            self.jobs.update(self.send(Work(chunk, waits, share)))

    def ids(self, *keys: str) -> list[str]:
        """The jobs of these keys that are on their way."""
        return [self.jobs[key] for key in keys if key in self.jobs]


def _key(spec: TaskSpec) -> str:
    return keys_of(spec.stage, spec.items)[0]


def _one_each(spec: TaskSpec) -> list[TaskSpec]:
    """A spec for each data set."""
    return [TaskSpec(spec.stage, spec.run, (item,)) for item in spec.items]


def _when(condition: str, job_ids: Iterable[str]) -> str:
    """Words of sbatch for a dependency; whole arrays where every end will do."""
    ids = job_ids if condition == "afterok" else (job_id.partition("_")[0] for job_id in job_ids)
    unique = dict.fromkeys(ids)
    return f"{condition}:{':'.join(unique)}" if unique else ""


def _printer(submitter: Submitter) -> Send:
    """Prints the batch scripts instead of submitting them."""

    def send(work: Work) -> dict[str, str]:
        sys.stdout.write(f"# ---- would be submitted: {', '.join(work.keys)}\n{submitter.text(work)}\n\n")
        return {key: f"<{key}>" for key in work.keys}

    return send


def _announcer(submitter: Submitter) -> Send:
    """Submits, and says what became of it."""

    def send(work: Work) -> dict[str, str]:
        jobs = submitter.submit(work)
        first = next(iter(jobs.values()))
        count = f" (array of {len(jobs)})" if len(jobs) > 1 else ""
        waits = f", after {work.dependency}" if work.dependency else ""
        _say(f"{work.stage}: submitted as job {first.partition('_')[0]}{count}{waits}")
        return jobs

    return send


def _retry(target: str, cluster_name: str | None, dry_run: bool) -> int:
    run, config = open_run(target)
    stages = list(dict.fromkeys(line["stage"] for line in read_lines(submissions_path(run))))
    if not stages:
        raise UserError(f"{run.root}: none of its stages was ever submitted to Slurm; `trex run {target}` does them")
    cluster = load_cluster(cluster_name) if cluster_name else load(cluster_path(run), Cluster)
    plans = [plan(run, config, stage) for stage in ("train", "extract", "probe", "report") if stage in stages]
    specs = [spec for one in plans for spec in one.specs]
    return _submit(run, config, cluster, specs, dry_run)


def _cancel(target: str) -> int:
    run, _ = open_run(target)
    jobs = waiting_jobs(run)
    queue.cancel(job.job_id.partition("_")[0] for job in jobs.values())  # arrays as a whole
    _say(
        f"cancelled {len(jobs)} jobs of {run.name}: {', '.join(jobs)}"
        if jobs
        else f"{run.name} has no jobs in the queue"
    )
    return ExitCode.DONE


def _say(text: str) -> None:
    sys.stderr.write(f"trex: {text}\n")
