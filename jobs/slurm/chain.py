"""The way of a run through the queue: which jobs its stages become, what waits for what, retrying, cancelling.

    train ──afterok──▶ extract (array, an element a dataset) ──aftercorr──▶ probe (array, an element a dataset, or a
    dataset and seed; each starts as soon as the same dataset is extracted) ──afterany──▶ report

What is done is not submitted; what is in the queue is not submitted again but waited for. A job whose predecessor
failed is cancelled by Slurm instead of waiting for ever, and the report shows what there is.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from jobs.plan.cluster import Cluster, load_cluster
from jobs.plan.memory import require_memory
from jobs.plan.runs import open_run, save_config
from jobs.plan.spec import Item, TaskSpec
from jobs.plan.stages import missing_data, plan, stages_of
from jobs.run_status import is_reported
from jobs.slurm import queue
from jobs.slurm.submit import Submitter, Work, array_size, make_private, submitted_jobs
from trex.config import Config, load
from trex.config.loader import to_yaml
from trex.errors import ExitCode, TrexError, UserError
from trex.files import write_text
from trex.records.run_dir import RunDir
from trex.records.submission import Submission

Send = Callable[[Work], dict[str, str]]
Batch = tuple[list[TaskSpec], str]  #: of one stage, and what they wait for in the words of sbatch

#: Seconds that a job on its way out is given to be gone, or to be back from its requeue; and from one look to the next.
_PATIENCE, _PAUSE = 60.0, 2.0


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
    todo = plan(run, config, stages_of(stage))
    if any(spec.stage == "probe" for spec in todo.specs):
        require_memory(config, cluster)
    if missing := missing_data(config, todo.specs):
        listed = ", ".join(f"{name} ({folder})" for name, folder in missing.items())
        _say(f"warning: datasets that this machine does not have where they are looked for: {listed}")
    for name in todo.done:
        _say(f"{name}: nothing to do")
    return _submit(run, config, cluster, todo.specs, dry_run)


def _submit(run: RunDir, config: Config, cluster: Cluster, specs: Sequence[TaskSpec], dry_run: bool) -> int:
    if [spec.stage for spec in specs] == ["report"] and is_reported(run):
        specs = []  # nothing new to report on
    if not specs:
        _say(f"{run.name}: nothing is missing")
    submitter = Submitter(run, cluster)
    if dry_run:
        held: dict[str, queue.QueuedJob] = {}
        with contextlib.suppress(TrexError):  # a dry run needs no Slurm
            held = _settled_jobs(run) if specs else {}
        _Chain(cluster, _printer(submitter), held).submit(specs)
        return ExitCode.DONE
    save_config(run, config)
    make_private(run.jobs)
    with _one_at_a_time(run):
        write_text(run.cluster, to_yaml(cluster))
        held = _settled_jobs(run) if specs else {}
        _Chain(cluster, _announcer(submitter), held).submit(specs)
    return ExitCode.DONE


@contextlib.contextmanager
def _one_at_a_time(run: RunDir) -> Iterator[None]:
    """Of two that submit the same run, the second sees what the first put into the queue."""
    with run.submitting_lock.open("w") as file:
        with contextlib.suppress(OSError):  # a file system without locks: a second job would end with LOCKED
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def waiting_jobs(run: RunDir) -> dict[str, queue.QueuedJob]:
    """The jobs of a run that Slurm still holds, by the key of their state file; of several the newest."""
    return dict(_held_jobs(run))


def _held_jobs(run: RunDir) -> list[tuple[str, queue.QueuedJob]]:
    """All jobs of a run that Slurm still holds, of whatever submission, with their keys, oldest first."""
    submitted = submitted_jobs(run)
    if not submitted:
        return []
    in_queue = {(job.job_id, job.comment): job for job in queue.queued_jobs()}
    return [(key, in_queue[place]) for key, place in submitted if place in in_queue]


def _settled_jobs(run: RunDir) -> dict[str, queue.QueuedJob]:
    """`waiting_jobs`, once none is on its way out: such a job may be gone in a moment, or back from its requeue. One
    that takes longer than a minute is returned as it is.
    """
    deadline = time.monotonic() + _PATIENCE
    said = False
    while True:
        held = waiting_jobs(run)
        leaving = [job.job_id for job in held.values() if job.state == "COMPLETING"]
        if not leaving or time.monotonic() > deadline:
            return held
        if not said:
            _say(f"job {leaving[0]} is just ending: waiting a moment, for it may be requeued")
            said = True
        time.sleep(_PAUSE)


class _Chain:
    """Submits stage after stage, and remembers the job of each key for the stages after it."""

    def __init__(self, cluster: Cluster, send: Send, held: dict[str, queue.QueuedJob]) -> None:
        self.cluster, self.send = cluster, send
        # A job that is still on its way out counts as gone; whoever takes over waits for its end.
        self.jobs = {key: job.job_id for key, job in held.items() if job.state != "COMPLETING"}
        self.leaving = {key: job.job_id for key, job in held.items() if job.state == "COMPLETING"}
        self.size = array_size(cluster)

    def submit(self, specs: Sequence[TaskSpec]) -> None:
        """Submit the stages in their order, what of them is not on its way."""
        for spec in specs:
            new = self.new(_one_each(spec))
            if spec.stage == "probe":
                batches = self.probes_after_extraction(new)
            elif spec.stage == "report":
                batches = [(new, _when("afterany", self.jobs.values()))]
            else:
                batches = [(new, _when("afterok", [self.jobs["train"]] if "train" in self.jobs else []))]
            self.put(batches, self.cluster.stage(spec.stage).max_parallel)

    def new(self, specs: Sequence[TaskSpec]) -> list[TaskSpec]:
        """Those that are not in the queue."""
        for spec in specs:
            if spec.keys[0] in self.jobs:
                _say(f"{spec.keys[0]}: in the queue already, job {self.jobs[spec.keys[0]]}")
        return [spec for spec in specs if spec.keys[0] not in self.jobs]

    def probes_after_extraction(self, probes: Sequence[TaskSpec]) -> list[Batch]:
        """One array of the probes whose features are there. Of the others an array for each choice of seeds, beside
        the array of the extraction: its elements start one by one, as those of the same number succeed (aftercorr). A
        probe that has no such partner waits for its own extraction.
        """
        groups: dict[tuple[str, tuple[int, ...]], dict[str, list[TaskSpec]]] = {}
        for probe in probes:
            item = probe.items[0]
            parent = self.jobs.get(f"extract-{Item(item.dataset).name}", "")
            beside = (_array(parent), item.seeds) if parent else ("", ())
            groups.setdefault(beside, {}).setdefault(parent, []).append(probe)
        batches: list[Batch] = []
        for (array, _), by_parent in groups.items():
            if list(by_parent) == [f"{array}_{number}" for number in range(min(len(by_parent), self.size))]:
                batches.append(([one for specs in by_parent.values() for one in specs], f"aftercorr:{array}"))
            else:
                batches += [
                    (specs, _when("afterok", [parent] if parent else [])) for parent, specs in by_parent.items()
                ]
        return batches

    def put(self, batches: Sequence[Batch], limit: int) -> None:
        """Submit arrays of which at most `limit` elements run at once, all together; 0: as many as the cluster lets."""
        chunks = [
            (specs[start : start + self.size], dependency)
            for specs, dependency in batches
            for start in range(0, len(specs), self.size)
        ]
        shares = _shares([len(specs) for specs, _ in chunks], limit)
        sent: list[dict[str, str]] = []
        for (specs, dependency), share in zip(chunks, shares, strict=True):
            leaving = [self.leaving[spec.keys[0]] for spec in specs if spec.keys[0] in self.leaving]
            # More arrays than may run at once: each waits for the one that many before it.
            turn = sent[len(sent) - limit].values() if 0 < limit <= len(sent) else []
            waits = ",".join(filter(None, [dependency, _when("afterany", [*leaving, *turn])]))
            sent.append(self.send(Work(tuple(specs), waits, share)))
            self.jobs.update(sent[-1])


def _shares(sizes: Sequence[int], limit: int) -> list[int]:
    """How many elements of each array may run at once: no more than `limit` of all of them, divided evenly, where
    what a small array does not need goes to the others. With more arrays than `limit` one each, for they take turns.
    """
    if not limit or len(sizes) > limit:
        return [min(limit, 1)] * len(sizes)
    shares = [0] * len(sizes)
    left = limit
    for place, number in enumerate(sorted(range(len(sizes)), key=lambda one: sizes[one])):
        shares[number] = min(sizes[number], left // (len(sizes) - place))
        left -= shares[number]
    return shares


def _one_each(spec: TaskSpec) -> list[TaskSpec]:
    """A spec for each item."""
    return [TaskSpec(spec.stage, spec.run, (item,)) for item in spec.items] or [spec]


def _array(job_id: str) -> str:
    """The array of an element `123_4`; a job's own id."""
    return re.sub(r"_\d+$", "", job_id)


def _when(condition: str, job_ids: Iterable[str]) -> str:
    """Words of sbatch for a dependency; whole arrays where every end will do."""
    ids = job_ids if condition == "afterok" else map(_array, job_ids)
    unique = dict.fromkeys(ids)
    return f"{condition}:{':'.join(unique)}" if unique else ""


def _printer(submitter: Submitter) -> Send:
    """Prints the batch scripts instead of submitting them."""

    def send(work: Work) -> dict[str, str]:
        sys.stdout.write(f"# ---- would be submitted: {', '.join(work.keys)}\n{submitter.text(work)}\n\n")
        name = f"<{work.keys[0]}>"
        return {key: f"{name}_{n}" if len(work.specs) > 1 else name for n, key in enumerate(work.keys)}

    return send


def _announcer(submitter: Submitter) -> Send:
    """Submits, and says what became of it."""

    def send(work: Work) -> dict[str, str]:
        jobs = submitter.submit(work)
        first = next(iter(jobs.values()))
        count = f" (array of {len(jobs)})" if len(jobs) > 1 else ""
        waits = f", waits for {work.dependency}" if work.dependency else ""
        _say(f"{work.stage}: submitted as job {_array(first)}{count}{waits}")
        return jobs

    return send


def _retry(target: str, cluster_name: str | None, dry_run: bool) -> int:
    run, config = open_run(target)
    stages = list(dict.fromkeys(submission.stage for submission in Submission.of(run).strict()))
    if not stages:
        raise UserError(f"{run.root}: none of its stages was ever submitted to Slurm; `trex run {target}` does them")
    cluster = load_cluster(cluster_name) if cluster_name else load(run.cluster, Cluster)
    try:
        todo = plan(run, config, stages)
    except UserError as error:  # of features that are in the way; the training goes on all the same
        todo = plan(run, config, [stage for stage in stages if stage == "train"])
        if not todo.specs:
            raise
        _say(f"all but the training left out: {error}")
    return _submit(run, config, cluster, todo.specs, dry_run)


def _cancel(target: str) -> int:
    run, _ = open_run(target)
    jobs = _held_jobs(run)
    queue.cancel(_array(job.job_id) for _, job in jobs)  # arrays as a whole
    _say(
        f"cancelled {len(jobs)} jobs of {run.name}: {', '.join(dict(jobs))}"
        if jobs
        else f"{run.name} has no jobs in the queue"
    )
    return ExitCode.DONE


def _say(text: str) -> None:
    sys.stderr.write(f"trex: {text}\n")
