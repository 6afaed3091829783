"""Checks a cluster file against Slurm before anything is submitted: is each job accepted, and would it ever run?"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from jobs.backend import Finding
from jobs.plan.cluster import Cluster, StageResources
from jobs.plan.spec import STAGES, Stage, TaskSpec
from jobs.plan.stages import items
from jobs.slurm import queue
from jobs.slurm.calls import call, once
from jobs.slurm.rules import partitions
from jobs.slurm.rules.accounting import Accounts, enforced
from jobs.slurm.rules.quotas import Account, Queued, limits_submission, too_many
from jobs.slurm.rules.request import Request
from jobs.slurm.rules.site import NoAnswer, Partition, Site, User
from jobs.slurm.variables import chosen_cluster
from jobs.slurm.work import Work
from trex.config import Config
from trex.errors import UserError
from trex.records.run_dir import RunDir
from trex.wording import counted


def findings(run: RunDir, config: Config, cluster: Cluster) -> Iterator[Finding]:
    """Ask Slurm about its rules, and about the job of each stage. Submits nothing."""
    requests = [Request.of(stage, cluster.resources(stage), _jobs(stage, config)) for stage in STAGES]
    try:
        where = queue.to_ask(chosen_cluster(cluster.clusters))
        site = Site.ask(where, reservations=any(request.reservation for request in requests))
    except (NoAnswer, UserError) as error:
        yield Finding(False, f"slurm: {error}")
        return
    user, unknown = User.here(), ""
    try:
        accounts = Accounts.ask(site, user)
    except NoAnswer as error:
        accounts, unknown = None, str(error)
    asked: list[tuple[Request, Account]] = []
    for request in requests:
        foreseen, account = waits(request, site, user, accounts)
        asked.append((request, account))
        for text in foreseen:
            yield Finding(False, f"slurm: {request.stage}: {text}")
        if not foreseen:
            yield Finding.of(functools.partial(_accepted, run, cluster, request, site, account))
    if limits_submission(account for _, account in asked):
        yield from (Finding(False, f"slurm: {text}") for text in too_many(asked, _queued(run, user, where)))
    yield Finding(True, f"slurm: {_about_accounting(site, accounts, unknown)}")


def _jobs(stage: Stage, config: Config) -> int:
    """Return how many jobs `trex run` submits for a stage of a new run."""
    if stage == "train":
        return int(config.extract.weights == "trained")
    return 1 if stage == "report" else len(items(stage, config))


def waits(request: Request, site: Site, user: User, accounts: Accounts | None) -> tuple[list[str], Account]:
    """Return one sentence per rule because of which a job would wait forever, and the account of the job.

    If a job may run in one of several partitions, no rule of the others matters.
    """
    missing = list(partitions.unknown(request, site))
    chosen = [site.partitions[name] for name in request.partitions if name in site.partitions]
    chosen = chosen or [one for one in site.partitions.values() if one.is_default] or [Partition("")]
    account, found = Account.of(request, chosen[0], accounts), dict.fromkeys(missing)
    for partition in () if missing else chosen:
        account = Account.of(request, partition, accounts)
        broken = [*partitions.problems(request, partition, site, user, account.charged), *account.problems(request)]
        if not broken:
            return [], account
        found |= dict.fromkeys(broken)
    return list(found), account


def _accepted(run: RunDir, cluster: Cluster, request: Request, site: Site, account: Account) -> str:
    """Ask Slurm whether it would accept the stage's job, without submitting it."""
    from jobs.slurm.submit import Submitter

    wanted = cluster.resources(request.stage)
    submitter = Submitter(run, cluster)
    script = submitter.text(Work((TaskSpec(request.stage, str(run.root)),)))
    answer = once(["sbatch", "--test-only"], submitter.name, 60, stdin=script)
    if not answer.ok:
        raise UserError(f"slurm: {request.stage}: {_asked(wanted)}: {_reason(answer.stderr)}")
    notice = _notice(wanted, site) + account.notice(request)
    return f"slurm: {request.stage}: {_asked(wanted)}: {_reason(answer.stderr)}{notice}"


def _queued(run: RunDir, user: User, cluster: str) -> list[Queued]:
    """Return this user's jobs in the queue that are not of this run."""
    words = ["squeue", "--noheader", "--array", "--user", str(user.uid), "--format", "%j|%a|%q"]
    answer = call(words, cluster)
    rows = [line.rsplit("|", 2) for line in answer.stdout.splitlines() if line.count("|") > 1]
    own = {f"{run.name}-{stage}" for stage in STAGES}
    return [Queued(account, qos) for name, account, qos in rows if name not in own]


def _about_accounting(site: Site, accounts: Accounts | None, unknown: str) -> str:
    """Return what is known about the limits of accounts and QOS."""
    if unknown:
        return f"warning: {unknown}; the limits of accounts and QOS were not checked"
    if accounts is None:
        return "no accounting; trex status works without it, and there are no limits of accounts and QOS to check"
    if "limits" not in enforced(site):
        value = site.settings.get("AccountingStorageEnforce", "none")
        return f"accounting answers; its limits hold no job back here (AccountingStorageEnforce is {value})"
    return "accounting answers; the limits of accounts and QOS were checked"


def _asked(stage: StageResources) -> str:
    gpus = f", {counted(stage.gpus_per_node, 'GPU')} per node" if stage.gpus_per_node else ""
    where = f" in {stage.partition}" if stage.partition else ""
    return f"{counted(stage.nodes, 'node')}{gpus}, {stage.time}{where}"


def _reason(text: str) -> str:
    """Return sbatch's output as one line, without the prefix `sbatch: error:`."""
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in text.strip().splitlines()]
    return "; ".join(lines)


def _notice(stage: StageResources, site: Site) -> str:
    """Return how many seconds a preempted job gets in this partition before it is killed."""
    partition = site.partitions.get(stage.partition or "")
    if partition is None or not partition.preempts:
        return ""
    if site.settings.get("PreemptType") == "preempt/qos":
        return "; a preempted job gets the GraceTime of its QOS to save, which is not known here"
    return f"; a preempted job gets {partition.grace} s (GraceTime) to save"
