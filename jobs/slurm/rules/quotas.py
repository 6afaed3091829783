"""The limits of accounts and QOS that a job would exceed, so that Slurm would let it wait forever or refuse it.

For each limit the first of these that sets it holds: the QOS of the partition, the QOS of the job, the user in the
account, the account, the accounts above it. (With OverPartQOS the job's QOS is before the partition's.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from jobs.slurm.rules.accounting import Accounts, Limits
from jobs.slurm.rules.partitions import Charged, clock, gigabytes
from jobs.slurm.rules.request import Request
from jobs.slurm.rules.site import Partition
from trex.wording import counted

_NOUNS = {"cpu": "CPU", "node": "node", "gres/gpu": "GPU"}
_KEYS = {
    "cpu": "cpus_per_task, tasks_per_node or nodes", "node": "nodes", "gres/gpu": "gpus_per_node or nodes",
    "mem": "memory_gb or nodes",
}  # fmt: skip
#: The limits on what jobs take together, by sacctmgr's name: of one job, of all jobs of a user, of all.
_OF_JOB = {
    "MaxTRES": "per job", "MaxTRESPU": "to all jobs of a user", "MaxTRESPA": "to all jobs of an account",
    "GrpTRES": "to all jobs",
}  # fmt: skip


@dataclass(frozen=True)
class Account:
    """The account and the QOS of a job, with their limits in the order in which they hold."""

    charged: Charged
    limits: tuple[Limits, ...] = ()
    problem: str = ""  #: why Slurm refuses the job

    @classmethod
    def of(cls, request: Request, partition: Partition, accounts: Accounts | None) -> Account:
        """Return the account and the QOS that a job in a partition would have."""
        if accounts is None:
            return cls(Charged(request.account, request.qos))
        account, stage = request.account or accounts.default, request.stage
        found = accounts.association(account, partition.name) if account else None
        qos = request.qos or (found.default_qos if found else None)
        if qos is None and found is not None:  # Slurm's choice if no default is set
            qos = next(iter(found.qos)) if len(found.qos) == 1 else "normal"
        known = accounts.qos.get(qos) if qos else None
        charged = Charged(account, qos, known.flags if known else frozenset())
        if found is None and "associations" in accounts.enforced:
            mine = sorted({one.account for one in accounts.associations if one.user})
            listed = (
                f"your accounts are {', '.join(mine)}" if mine else "you have no account here: ask the site for one"
            )
            return cls(charged, problem=f"account {account} is not one of yours; {listed}: change {stage}.account")
        problem = ""
        if found is not None and qos not in found.qos and "qos" in accounts.enforced:
            allowed = ", ".join(sorted(found.qos)) or "none"
            problem = f"account {account} allows the QOS {allowed}, and the job has {qos}: change {stage}.qos"
        if "limits" not in accounts.enforced:
            return cls(charged, (), problem)
        of_partition = accounts.qos.get(partition.qos) if partition.qos else None
        first = [one.limits for one in (of_partition, known) if one is not None]
        if known is not None and "OverPartQOS" in known.flags:
            first.reverse()
        above = [one.limits for one in accounts.above(account)] if account else []
        return cls(charged, (*first, *([found.limits] if found else []), *above), problem)

    def problems(self, request: Request) -> Iterator[str]:
        """Yield one sentence per limit that a job alone exceeds: what is allowed, what is asked for, what to change."""
        stage = request.stage
        if self.problem:
            yield self.problem
        walls = [(one, one.wall) for one in self.limits if one.wall is not None]
        for source, wall in walls[:1]:
            if request.seconds > wall:
                yield (
                    f"{source.title} allows {clock(wall)} (MaxWall), and {stage}.time is {request.time}: lower it, or "
                    f"change {stage}.{source.kind}"
                )
        for name, whose in _OF_JOB.items():
            yield from self._exceeded(request, name, whose, request.tres)
        per_node = {key: amount / request.nodes for key, amount in request.tres.items()}
        yield from self._exceeded(request, "MaxTRESPerNode", "per node", per_node)
        minutes = {key: amount * request.seconds / 60 for key, amount in request.tres.items()}
        for source, key, most in _first(self.limits, "MaxTRESMins"):
            if minutes.get(key, 0) > most:
                yield (
                    f"{source.title} allows {most:.0f} {_NOUNS.get(key, key)} minutes per job (MaxTRESMins), and the "
                    f"job asks for {minutes[key]:.0f}: lower {stage}.time, or change {stage}.{source.kind}"
                )
        for source, key, least in _first(self.limits, "MinTRES"):
            if request.tres.get(key, 0) < least and key in _KEYS:
                yield (
                    f"{source.title} wants at least {_amount(key, least)} per job (MinTRES), and the job asks for "
                    f"{_amount(key, request.tres.get(key, 0))}: raise {stage}.{_KEYS[key]}"
                )
        for source, name in ((one, name) for one in self.limits for name in ("jobs", "group_jobs")):
            if getattr(source, name) == 0:
                yield f"{source.title} allows no running jobs (MaxJobs or GrpJobs is 0): change {stage}.{source.kind}"

    def _exceeded(self, request: Request, limit: str, whose: str, asked: dict[str, float]) -> Iterator[str]:
        for source, key, most in _first(self.limits, limit):
            if asked.get(key, 0) > most:
                yield (
                    f"{source.title} allows {_amount(key, most)} {whose} ({limit}), and the job asks for "
                    f"{_amount(key, asked[key])}: lower {request.stage}.{_KEYS.get(key, 'gpus_per_node or nodes')}, or "
                    f"change {request.stage}.{source.kind}"
                )

    def notice(self, request: Request) -> str:
        """Return that only some jobs of the stage run at once, if a limit says so; else an empty string."""
        most = [one for one in self.limits if one.jobs]
        if most and (most[0].jobs or 0) < request.jobs:
            return f"; {most[0].title} lets {most[0].jobs} jobs of yours run at once, the others wait for them"
        return ""


@dataclass(frozen=True)
class Queued:
    """A job of this user that is in the queue and belongs to another run."""

    account: str
    qos: str


def too_many(asked: Sequence[tuple[Request, Account]], queued: Sequence[Queued]) -> Iterator[str]:
    """Yield one sentence per limit of jobs in the queue that all stages exceed, with the jobs that are in it."""
    for name, limit in (("submitted", "MaxSubmitJobs"), ("group_submitted", "GrpSubmitJobs")):
        counts: dict[Limits, dict[str, int]] = {}
        for request, account in asked:
            source = next((one for one in account.limits if getattr(one, name) is not None), None)
            if source is not None and request.jobs:
                counts.setdefault(source, {})[request.stage] = request.jobs
        for source, of_stage in counts.items():
            most: int = getattr(source, name)
            there = sum(source.name == getattr(one, source.kind) for one in queued)
            if sum(of_stage.values()) + there > most:
                listed = ", ".join(f"{stage} {count}" for stage, count in of_stage.items())
                yield (
                    f"{source.title} allows {counted(most, 'job')} in the queue ({limit}), and the run has "
                    f"{sum(of_stage.values())} ({listed}), with {there} of yours there now: submit one stage after the "
                    f"other, name fewer datasets in extract.datasets, or choose another {source.kind} for some"
                )


def limits_submission(accounts: Iterable[Account]) -> bool:
    """Return whether any of these limits how many jobs may be in the queue."""
    return any(
        one.submitted is not None or one.group_submitted is not None for account in accounts for one in account.limits
    )


def _first(limits: Iterable[Limits], name: str) -> Iterator[tuple[Limits, str, float]]:
    """Yield each resource that a limit names, with the amount of the first source that has it."""
    seen: set[str] = set()
    for source in limits:
        for key, amount in source.tres.get(name, {}).items():
            if key not in seen:
                seen.add(key)
                yield source, key, amount


def _amount(key: str, amount: float) -> str:
    if key == "mem":
        return gigabytes(amount)
    return counted(int(amount), _NOUNS[key]) if key in _NOUNS else f"{amount:.0f} {key}"
