"""The rules of a partition that a job would break, so that Slurm would let it wait forever.

`sbatch --test-only` accepts most such jobs, because EnforcePartLimits is NO by default. Each rule is one sentence: what
the site allows, what was asked for, and which key of the cluster file to change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jobs.slurm.rules import formats
from jobs.slurm.rules.request import Request
from jobs.slurm.rules.site import Node, Partition, Site, User
from trex.wording import counted


@dataclass(frozen=True)
class Charged:
    """To what a job is charged, as far as it is known, and from which limits of partitions its QOS is exempt."""

    account: str | None
    qos: str | None
    exempt: frozenset[str] = frozenset()  #: flags of the QOS, such as PartitionTimeLimit


def problems(request: Request, partition: Partition, site: Site, user: User, charged: Charged) -> Iterator[str]:
    """Yield one sentence per rule of a partition that a job breaks."""
    if partition.state != "UP":
        yield f"partition {partition.name} is {partition.state}, so no job starts: {_another(request)}"
    yield from _rights(request, partition, site, user, charged)
    yield from _size(request, partition, charged)
    yield from _nodes(request, partition, site.nodes_of(partition))


def unknown(request: Request, site: Site) -> Iterator[str]:
    """Yield one sentence per partition and reservation of a request that the site does not have."""
    for name in request.partitions:
        if name not in site.partitions:
            yield (
                f"partition {name!r} does not exist or is not visible to you; expected one of: "
                f"{', '.join(sorted(site.partitions))}: change {request.stage}.partition"
            )
    if request.reservation is not None and request.reservation not in (site.reservations or ()):
        yield (
            f"reservation {request.reservation!r} does not exist or is not visible to you; expected one of: "
            f"{', '.join(sorted(site.reservations or ())) or 'none'}: change {request.stage}.options.reservation"
        )


def _another(request: Request) -> str:
    return f"choose another {request.stage}.partition"


def _rights(request: Request, partition: Partition, site: Site, user: User, charged: Charged) -> Iterator[str]:
    """Who may use the partition."""
    stage, where, other = request.stage, f"partition {partition.name}", _another(request)
    lists = (
        ("account", "the account", charged.account, partition.allowed_accounts, partition.denied_accounts, "Accounts"),
        ("qos", "the QOS", charged.qos, partition.allowed_qos, partition.denied_qos, "Qos"),
    )
    for key, noun, value, allowed, denied, name in lists:
        if value is None:
            continue
        if allowed is not None and value not in allowed:
            listed = ", ".join(sorted(allowed))
            has = f"and the job has {noun} {value}"
            yield f"{where} allows {listed} (Allow{name}), {has}: change {stage}.{key}, or {other}"
        elif allowed is None and denied is not None and value in denied:
            yield f"{where} denies {noun} {value} (Deny{name}): change {stage}.{key}, or {other}"
    groups = partition.allowed_groups
    if groups is not None and not site.is_admin(user) and not groups & user.groups:
        yield (
            f"{where} allows the groups {', '.join(sorted(groups))} (AllowGroups), and {user.name} is in "
            f"{', '.join(sorted(user.groups)) or 'none'}: {other}"
        )
    if partition.root_only and user.uid:
        yield f"{where} takes jobs from root only (RootOnly): {other}"
    if partition.needs_reservation and request.reservation is None:
        yield f"{where} takes jobs in a reservation only (ReqResv): set {stage}.options.reservation, or {other}"


def _size(request: Request, partition: Partition, charged: Charged) -> Iterator[str]:
    """How long and how large a job of the partition may be."""
    stage, where = request.stage, f"partition {partition.name}"
    exempt = charged.exempt
    if _more(request.seconds, partition.max_seconds) and "PartitionTimeLimit" not in exempt:
        yield (
            f"{where} allows {clock(partition.max_seconds or 0)} (MaxTime), and {stage}.time is {request.time}: lower "
            f"it, or {_another(request)}"
        )
    if _more(request.nodes, partition.max_nodes) and "PartitionMaxNodes" not in exempt:
        most = counted(partition.max_nodes or 0, "node")
        yield f"{where} allows {most} per job (MaxNodes), and {stage}.nodes is {request.nodes}: lower it"
    if (partition.min_nodes or 0) > request.nodes and "PartitionMinNodes" not in exempt:
        yield (
            f"{where} wants at least {partition.min_nodes} nodes per job (MinNodes), and {stage}.nodes is "
            f"{request.nodes}: raise it, or {_another(request)}"
        )
    if _more(request.cpus, partition.max_cpus):
        yield (
            f"{where} allows {counted(partition.max_cpus or 0, 'CPU')} per node (MaxCPUsPerNode), and the job asks for "
            f"{request.cpus}: lower {stage}.cpus_per_task or {stage}.tasks_per_node"
        )
    if partition.max_memory is None:
        return
    most, memory = gigabytes(partition.max_memory), _memory(request, partition)
    if memory is None:
        yield (
            f"{where} allows {most} per node (MaxMemPerNode), and a job that does not ask for memory asks for all of a "
            f"node: set {stage}.memory_gb"
        )
    elif memory > partition.max_memory:
        yield (
            f"{where} allows {most} per node (MaxMemPerNode), and the job asks for {gigabytes(memory)}: lower "
            f"{stage}.memory_gb"
        )


def _more(asked: float, most: float | None) -> bool:
    return most is not None and asked > most


def _memory(request: Request, partition: Partition) -> float | None:
    """Return the megabytes per node that a job gets in a partition; None: all of a node."""
    per_cpu = partition.default_memory_per_cpu
    return request.memory or partition.default_memory or (per_cpu * request.cpus if per_cpu else None)


def _nodes(request: Request, partition: Partition, nodes: list[Node]) -> Iterator[str]:
    """Whether the partition has enough nodes that have what a job asks for, and on which jobs can start."""
    stage, where, wanted = request.stage, f"partition {partition.name}", request.nodes
    if not nodes:
        return
    if len(nodes) < wanted:
        yield f"{where} has {counted(len(nodes), 'node')}, and {stage}.nodes is {wanted}: lower it"
        return
    fits: list[Callable[[Node], bool]] = []
    for has, most, asked, key in _demands(request, nodes):
        fits.append(has)
        count = sum(map(has, nodes))
        if not count:
            yield f"the nodes of {where} have {most}, and the job asks for {asked}: change {stage}.{key}"
            return
        if count < wanted:
            having = f"{where} has {counted(count, 'node')} with {asked}"
            yield f"{having}, and {stage}.nodes is {wanted}: change {stage}.{key}"
            return
    fitting = [node for node in nodes if all(has(node) for has in fits)]
    usable = [node for node in fitting if node.usable]
    if len(fitting) < wanted:
        yield (
            f"{where} has {counted(len(fitting), 'node')} with all that the job asks for, and {stage}.nodes is "
            f"{wanted}: ask for less per node, or {_another(request)}"
        )
    elif len(usable) < wanted:
        yield (
            f"{where} has {counted(len(fitting), 'node')} for this job, but {len(fitting) - len(usable)} of them "
            f"are down or drained, and {stage}.nodes is {wanted}: lower it, or {_another(request)}"
        )


def _demands(request: Request, nodes: list[Node]) -> Iterator[tuple[Callable[[Node], bool], str, str, str]]:
    """Yield what a node must have, each with: the most that a node has, what is asked for, and the key to change."""
    if request.constraint and all(
        formats.has_features(request.constraint, node.features) is not None for node in nodes
    ):
        known = ", ".join(sorted({name for node in nodes for name in node.features})) or "(none)"
        constraint = request.constraint
        yield (
            lambda node: bool(formats.has_features(constraint, node.features)), f"the features {known}",
            f"{constraint}", "constraint",
        )  # fmt: skip
    cpus = [node.cpus for node in nodes if node.cpus is not None]
    if len(cpus) == len(nodes):
        yield (
            lambda node: (node.cpus or 0) >= request.cpus, f"at most {counted(max(cpus), 'CPU')}",
            f"{counted(request.cpus, 'CPU')} per node",
            "cpus_per_task or tasks_per_node",
        )  # fmt: skip
    if request.gpus:
        kind = f" of type {request.gpu_type}" if request.gpu_type else ""
        most = max(_gpus(request, node) for node in nodes)
        yield (
            lambda node: _gpus(request, node) >= request.gpus,
            f"at most {counted(most, 'GPU')}{kind}", f"{counted(request.gpus, 'GPU')}{kind} per node",
            "gpus_per_node",
        )  # fmt: skip
    memory = [node.memory for node in nodes if node.memory is not None]
    if request.memory is not None and len(memory) == len(nodes):
        asked = request.memory
        yield (
            lambda node: (node.memory or 0) >= asked, f"at most {gigabytes(max(memory))}",
            f"{gigabytes(asked)} per node", "memory_gb",
        )  # fmt: skip


def _gpus(request: Request, node: Node) -> int:
    return node.gpus.get(request.gpu_type, 0) if request.gpu_type else sum(node.gpus.values())


def gigabytes(megabytes: float) -> str:
    """Return an amount of memory in the unit of `memory_gb`, 1024 MB."""
    return f"{megabytes / 1024:.4g} GB"


def clock(seconds: int) -> str:
    """Return a time in Slurm's format D-HH:MM:SS, without days if there are none."""
    days, rest = divmod(seconds, 86400)
    text = f"{rest // 3600:02}:{rest % 3600 // 60:02}:{rest % 60:02}"
    return f"{days}-{text}" if days else text
