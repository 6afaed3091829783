"""What a Slurm site has and allows: its partitions, nodes and reservations, in three or four calls for all stages."""

from __future__ import annotations

import grp
import os
import pwd
import re
from dataclasses import dataclass, field

from jobs.slurm.calls import call
from jobs.slurm.rules import formats

#: Words in the state of a node on which no job starts. Nodes that are only powered down are started for a job.
_UNUSABLE = {"DOWN", "DRAIN", "DRAINED", "DRAINING", "ERROR", "FAIL", "FAILING"}


class NoAnswer(Exception):
    """A program of Slurm did not answer. The message says which and why."""


@dataclass(frozen=True)
class User:
    """Who submits the jobs."""

    name: str
    uid: int
    groups: frozenset[str]

    @classmethod
    def here(cls) -> User:
        """Return the user of this process, with the groups that this machine knows."""
        uid = os.getuid()
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            name = str(uid)
        found = set()
        for number in {os.getgid(), *os.getgroups()}:
            try:
                found.add(grp.getgrgid(number).gr_name)
            except KeyError:
                continue
        return cls(name, uid, frozenset(found))


@dataclass(frozen=True)
class Partition:
    """A partition, and who may use it for what. None: no limit."""

    name: str
    is_default: bool = False
    state: str = "UP"
    max_seconds: int | None = None
    min_nodes: int | None = None
    max_nodes: int | None = None
    max_cpus: int | None = None  #: per node
    max_memory: float | None = None  #: per node, MB
    default_memory: float | None = None  #: per node, MB, of jobs that do not ask for any; None: all of the node
    default_memory_per_cpu: float | None = None  #: MB
    allowed_accounts: frozenset[str] | None = None
    denied_accounts: frozenset[str] | None = None
    allowed_qos: frozenset[str] | None = None
    denied_qos: frozenset[str] | None = None
    allowed_groups: frozenset[str] | None = None
    root_only: bool = False
    needs_reservation: bool = False
    qos: str | None = None  #: a QOS whose limits hold for all jobs of the partition
    grace: str = "?"  #: seconds that a preempted job gets
    preempts: bool = False  #: whether its jobs can be preempted

    @classmethod
    def of(cls, values: dict[str, str]) -> Partition:
        """Return the partition that a line of `scontrol show partition --oneliner` describes."""
        get = values.get
        return cls(
            name=values["PartitionName"],
            is_default=get("Default") == "YES",
            state=get("State", "UP"),
            max_seconds=formats.time_limit(get("MaxTime", "")),
            min_nodes=formats.number(get("MinNodes", "")),
            max_nodes=formats.number(get("MaxNodes", "")),
            max_cpus=formats.number(get("MaxCPUsPerNode", "")),
            max_memory=formats.megabytes(get("MaxMemPerNode", "")),
            default_memory=formats.megabytes(get("DefMemPerNode", "")),
            default_memory_per_cpu=formats.megabytes(get("DefMemPerCPU", "")),
            allowed_accounts=formats.names(get("AllowAccounts", "").lower()),
            denied_accounts=formats.names(get("DenyAccounts", "").lower()),
            allowed_qos=formats.names(get("AllowQos", "").lower()),
            denied_qos=formats.names(get("DenyQos", "").lower()),
            allowed_groups=formats.names(get("AllowGroups", "")),
            root_only=get("RootOnly") == "YES",
            needs_reservation=get("ReqResv") == "YES",
            qos=None if get("QoS", "N/A") == "N/A" else get("QoS"),
            grace=get("GraceTime", "?"),
            preempts=get("PreemptMode", "OFF") != "OFF",
        )


@dataclass(frozen=True)
class Node:
    """A node, and what it has. None: not known."""

    name: str
    partitions: frozenset[str]
    usable: bool = True
    cpus: int | None = None
    memory: float | None = None  #: MB
    gpus: dict[str, int] = field(default_factory=dict)  #: number by type
    features: frozenset[str] = frozenset()

    @classmethod
    def of(cls, values: dict[str, str]) -> Node:
        """Return the node that a line of `scontrol show node --oneliner` describes."""
        state = set(re.split(r"[^A-Z_]+", values.get("State", "")))
        return cls(
            name=values["NodeName"],
            partitions=formats.names(values.get("Partitions", "")) or frozenset(),
            usable=not state & _UNUSABLE,
            cpus=formats.number(values.get("CPUEfctv", values.get("CPUTot", ""))),
            memory=formats.megabytes(values.get("RealMemory", "")),
            gpus=formats.gpus(values.get("Gres", "")),
            features=formats.names(values.get("AvailableFeatures", "")) or frozenset(),
        )


@dataclass(frozen=True)
class Site:
    """All that `scontrol` says about a site."""

    partitions: dict[str, Partition]
    nodes: tuple[Node, ...]  #: empty if the site does not show its nodes
    settings: dict[str, str]  #: of slurm.conf, by name
    reservations: frozenset[str] | None = None  #: None: not asked for

    @classmethod
    def ask(cls, cluster: str, reservations: bool) -> Site:
        """Ask Slurm.

        Args:
            cluster: name of the cluster; empty: the one of this machine.
            reservations: whether its reservations are needed.

        Raises:
            NoAnswer: if it does not answer about its partitions.
        """
        found = [Partition.of(line) for line in _show(cluster, "partition", "--all") if "PartitionName" in line]
        nodes = [Node.of(line) for line in _shown_or_none(cluster, "node") if "NodeName" in line]
        booked = None
        if reservations:
            booked = frozenset(
                line["ReservationName"] for line in _show(cluster, "reservation") if "ReservationName" in line
            )
        text = call(["scontrol", "show", "config"], cluster).stdout
        settings = dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", text, re.MULTILINE))
        return cls({one.name: one for one in found}, tuple(nodes), settings, booked)

    def is_admin(self, user: User) -> bool:
        """Return whether the partitions' rules about groups do not hold for a user: root and Slurm's own user."""
        return user.uid == 0 or self.settings.get("SlurmUser", "").endswith(f"({user.uid})")

    def nodes_of(self, partition: Partition) -> list[Node]:
        """Return the nodes of a partition that the site shows."""
        return [node for node in self.nodes if partition.name in node.partitions]


def _show(cluster: str, what: str, *options: str) -> list[dict[str, str]]:
    """Return the values in each line of `scontrol show WHAT`."""
    words = ["scontrol", *options, "show", what, "--oneliner"]
    answer = call(words, cluster)
    if not answer.ok:
        raise NoAnswer(f"scontrol does not answer: {answer.stderr.strip()}")
    return [formats.pairs(line) for line in answer.stdout.splitlines()]


def _shown_or_none(cluster: str, what: str) -> list[dict[str, str]]:
    try:
        return _show(cluster, what)
    except NoAnswer:  # some sites show it to administrators only
        return []
