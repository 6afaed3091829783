"""Which jobs the stages of a run become, and what waits for what.

    train ──success──▶ extract (array, one element per dataset) ──same element──▶ probe (array, one element per dataset,
    or per dataset and seed; each starts as soon as the same dataset is extracted) ──end──▶ report

What is in the queue is not submitted again but waited for. A job whose predecessor failed is cancelled by Slurm instead
of waiting forever, and the report shows what there is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

from jobs.backend import QueuedJob, QueueState
from jobs.plan.cluster import Cluster
from jobs.plan.spec import Item, TaskSpec
from jobs.slurm.ids import JobId
from jobs.slurm.work import After, Dependency, Work

Send = Callable[[Work], dict[str, JobId]]
Batch = tuple[list[TaskSpec], tuple[Dependency, ...]]  #: of one stage, and what they wait for


class Chain:
    """Submits stage after stage, and remembers the job of each key for the stages after it."""

    def __init__(self, cluster: Cluster, array_size: int, send: Send, held: Mapping[str, QueuedJob]) -> None:
        """Prepare to submit one run's stages.

        Args:
            cluster: says how many jobs of a stage may run at once.
            array_size: how many elements an array may have.
            send: submits one piece of work and returns the job of each key.
            held: what is in the queue already, by key.
        """
        self.cluster, self.size, self.send = cluster, array_size, send
        # A job that is still ending counts as gone; whoever takes over waits for its end.
        ids = {key: JobId.parse(job.job) for key, job in held.items()}
        self.ending = {key: ids[key] for key, job in held.items() if job.state is QueueState.ENDING}
        self.jobs = {key: job for key, job in ids.items() if key not in self.ending}

    def submit(self, specs: Sequence[TaskSpec]) -> None:
        """Submit the stages in their order, what of them is not in the queue."""
        for spec in specs:
            new = self.new(_one_each(spec))
            if spec.stage == "probe":
                batches = self.probes_after_extraction(new)
            elif spec.stage == "report":
                batches = [(new, _wait(After.END, self.jobs.values()))]
            else:
                batches = [(new, _wait(After.SUCCESS, [self.jobs["train"]] if "train" in self.jobs else []))]
            self.put(batches, self.cluster.stage(spec.stage).max_parallel)

    def new(self, specs: Sequence[TaskSpec]) -> list[TaskSpec]:
        """Those that are not in the queue."""
        for spec in specs:
            if spec.keys[0] in self.jobs:
                sys.stderr.write(f"trex: {spec.keys[0]}: in the queue already, job {self.jobs[spec.keys[0]]}\n")
        return [spec for spec in specs if spec.keys[0] not in self.jobs]

    def probes_after_extraction(self, probes: Sequence[TaskSpec]) -> list[Batch]:
        """One array of the probes whose features are there. Of the others one array for each choice of seeds, parallel
        to the array of the extraction: its elements start one by one, as those of the same number succeed. A probe that
        has no such partner waits for its own extraction.
        """
        groups: dict[tuple[str, tuple[int, ...]], dict[JobId | None, list[TaskSpec]]] = {}
        for probe in probes:
            item = probe.items[0]
            parent = self.jobs.get(f"extract-{Item(item.dataset).name}")
            beside = (parent.array, item.seeds) if parent else ("", ())
            groups.setdefault(beside, {}).setdefault(parent, []).append(probe)
        batches: list[Batch] = []
        for (array, _), by_parent in groups.items():
            if list(by_parent) == [JobId(array, number) for number in range(min(len(by_parent), self.size))]:
                same = (Dependency(After.SAME_ELEMENT, (JobId(array),)),)
                batches.append(([one for specs in by_parent.values() for one in specs], same))
            else:
                batches += [
                    (specs, _wait(After.SUCCESS, [parent] if parent else [])) for parent, specs in by_parent.items()
                ]
        return batches

    def put(self, batches: Sequence[Batch], limit: int) -> None:
        """Submit arrays of which at most `limit` elements run at once, all together; 0 is no limit."""
        chunks = [
            (specs[start : start + self.size], waits)
            for specs, waits in batches
            for start in range(0, len(specs), self.size)
        ]
        shares = _shares([len(specs) for specs, _ in chunks], limit)
        sent: list[dict[str, JobId]] = []
        for (specs, waits), share in zip(chunks, shares, strict=True):
            ending = [self.ending[spec.keys[0]] for spec in specs if spec.keys[0] in self.ending]
            # More arrays than may run at once: each waits for the one that many before it.
            turn = sent[len(sent) - limit].values() if 0 < limit <= len(sent) else []
            sent.append(self.send(Work(tuple(specs), (*waits, *_wait(After.END, [*ending, *turn])), share)))
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


def _wait(after: After, jobs: Iterable[JobId]) -> tuple[Dependency, ...]:
    """One dependency on all of `jobs`, or none; on whole arrays where every end will do."""
    ids = jobs if after is After.SUCCESS else (JobId(job.array) for job in jobs)
    unique = tuple(dict.fromkeys(ids))
    return (Dependency(after, unique),) if unique else ()
