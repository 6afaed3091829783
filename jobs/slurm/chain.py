"""Turns the stages of a run into jobs and decides which jobs wait for which.

    train ──success──▶ extract (array, one element per dataset) ──same element──▶ probe (array, one element per dataset,
    or per dataset and seed; each starts as soon as the same dataset is extracted) ──end──▶ report

The work at milestones (probe.at) is extracted and probed in the same way, without waiting for the training.

A job that is already in the queue is not submitted again; later jobs wait for it. If a job fails, Slurm cancels the
jobs that need its success instead of leaving them in the queue forever. The report then shows the results that exist.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from jobs.backend import QueuedJob, QueueState
from jobs.plan.cluster import Cluster
from jobs.plan.spec import TaskSpec
from jobs.slurm.ids import JobId
from jobs.slurm.work import After, Dependency, Work

Send = Callable[[Work], dict[str, JobId]]
Batch = tuple[list[TaskSpec], tuple[Dependency, ...]]  #: specs of one stage, and what they wait for


class Chain:
    """Submits one stage after the other, and remembers the job of each key for the later stages."""

    def __init__(self, cluster: Cluster, array_size: int, send: Send, queued: Mapping[str, QueuedJob]) -> None:
        """Prepare to submit one run's stages.

        Args:
            cluster: the cluster file; it limits how many jobs of a stage run at once.
            array_size: the largest number of elements in an array.
            send: submits one `Work` and returns the job of each key.
            queued: the jobs that are in the queue already, by key.
        """
        self.cluster, self.size, self.send = cluster, array_size, send
        # A job that is still ending counts as gone. The job that replaces it waits for its end.
        ids = {key: JobId.parse(job.job) for key, job in queued.items()}
        self.ending = {key: ids[key] for key, job in queued.items() if job.state is QueueState.ENDING}
        self.jobs = {key: job for key, job in ids.items() if key not in self.ending}

    def submit(self, specs: Sequence[TaskSpec]) -> None:
        """Submit the jobs of `specs` that are not in the queue, stage by stage."""
        for spec in specs:
            new = self.new(_per_item(spec))
            if spec.stage == "probe":
                batches = self.probes_after_extraction(new)
            elif spec.stage == "report":
                batches = [(new, _wait(After.END, self.jobs.values()))]
            else:
                training = _wait(After.SUCCESS, [self.jobs["train"]] if "train" in self.jobs else [])
                batches = [  # the checkpoints of milestones exist already
                    ([one for one in new if one.of_milestones], ()),
                    ([one for one in new if not one.of_milestones], training),
                ]
            self.put(batches, self.cluster.resources(spec.stage).max_parallel)

    def new(self, specs: Sequence[TaskSpec]) -> list[TaskSpec]:
        """Return the specs that are not in the queue, and print the job id of those that are."""
        for spec in specs:
            if spec.keys[0] in self.jobs:
                sys.stderr.write(f"trex: {spec.keys[0]}: already in the queue as job {self.jobs[spec.keys[0]]}\n")
        return [spec for spec in specs if spec.keys[0] not in self.jobs]

    def probes_after_extraction(self, probes: Sequence[TaskSpec]) -> list[Batch]:
        """Group the probes into arrays by the extraction that they wait for.

        Probes whose features exist already form one array that waits for nothing. The other probes form one array per
        choice of seeds, whose elements match the elements of the extraction array: each starts as soon as the element
        with the same number succeeds. Where the elements do not match, the probes of a dataset wait for the extraction
        job of that dataset.
        """
        groups: dict[tuple[str, tuple[int, ...]], dict[JobId | None, list[TaskSpec]]] = {}
        for probe in probes:
            item = probe.items[0]
            parent = self.jobs.get(f"extract-{replace(item, seeds=()).name}")
            group = (parent.array, item.seeds) if parent else ("", ())
            groups.setdefault(group, {}).setdefault(parent, []).append(probe)
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
        """Submit the batches as arrays. At most `limit` elements of all arrays together run at once; 0: no limit."""
        chunks = [
            (specs[start : start + self.size], waits)
            for specs, waits in batches
            for start in range(0, len(specs), self.size)
        ]
        shares = _shares([len(specs) for specs, _ in chunks], limit)
        sent: list[dict[str, JobId]] = []
        for (specs, waits), share in zip(chunks, shares, strict=True):
            ending = [self.ending[spec.keys[0]] for spec in specs if spec.keys[0] in self.ending]
            # With more arrays than may run at once, each array waits for the one `limit` places before it.
            turn = sent[len(sent) - limit].values() if 0 < limit <= len(sent) else []
            sent.append(self.send(Work(tuple(specs), (*waits, *_wait(After.END, [*ending, *turn])), share)))
            self.jobs.update(sent[-1])


def _shares(sizes: Sequence[int], limit: int) -> list[int]:
    """Return how many elements of each array may run at once.

    The shares add up to at most `limit` and are as equal as the sizes allow: what a small array does not need goes to
    the larger ones. With more arrays than `limit`, each gets 1, because the arrays then take turns.
    """
    if not limit or len(sizes) > limit:
        return [min(limit, 1)] * len(sizes)
    shares = [0] * len(sizes)
    left = limit
    for place, number in enumerate(sorted(range(len(sizes)), key=lambda one: sizes[one])):
        shares[number] = min(sizes[number], left // (len(sizes) - place))
        left -= shares[number]
    return shares


def _per_item(spec: TaskSpec) -> list[TaskSpec]:
    """Return one spec per item, or the spec itself if it has no items."""
    return [TaskSpec(spec.stage, spec.run, (item,)) for item in spec.items] or [spec]


def _wait(after: After, jobs: Iterable[JobId]) -> tuple[Dependency, ...]:
    """Return one dependency on all of `jobs`, or none if there are no jobs.

    For `After.END` the dependency names whole arrays; for `After.SUCCESS` it names array elements.
    """
    ids = jobs if after is After.SUCCESS else (JobId(job.array) for job in jobs)
    unique = tuple(dict.fromkeys(ids))
    return (Dependency(after, unique),) if unique else ()
