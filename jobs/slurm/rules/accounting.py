"""The accounts and QOS that a site's accounting has for a user, with their limits, in three calls of sacctmgr."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobs.slurm.calls import call
from jobs.slurm.rules import formats
from jobs.slurm.rules.site import NoAnswer, Site, User

#: What each word of AccountingStorageEnforce includes.
_INCLUDED = {
    "limits": {"associations"}, "qos": {"associations"}, "safe": {"associations", "limits"},
    "wckeys": {"associations"}, "all": {"associations", "limits", "qos", "safe"},
}  # fmt: skip

_OF_BOTH = ("MaxTRES", "MaxTRESPerNode", "MaxTRESMins", "GrpTRES", "GrpJobs", "GrpSubmit", "MaxWall")
_OF_QOS = ("Name", "Flags", "MaxTRESPU", "MaxTRESPA", "MinTRES", "MaxJobsPU", "MaxSubmitPU", *_OF_BOTH)
_OF_ACCOUNT = ("Account", "User", "Partition", "ParentName", "QOS", "DefaultQOS", "MaxJobs", "MaxSubmit", *_OF_BOTH)


@dataclass(frozen=True)
class Limits:
    """The limits of a QOS, of an account, or of a user in an account. What is not limited is None or missing."""

    title: str  #: in messages, such as `QOS long` or `account lab`
    kind: str  #: qos or account: which key of the cluster file chooses it
    name: str
    wall: int | None = None  #: seconds
    jobs: int | None = None  #: running jobs of a user
    submitted: int | None = None  #: jobs of a user in the queue
    group_jobs: int | None = None
    group_submitted: int | None = None
    tres: dict[str, dict[str, float]] = field(
        default_factory=dict, hash=False
    )  #: by sacctmgr's name of the limit, such as GrpTRES

    @classmethod
    def of(cls, title: str, kind: str, name: str, row: dict[str, str]) -> Limits:
        """Return the limits in a line of sacctmgr's output."""
        return cls(
            title, kind, name,
            wall=formats.time_limit(row["MaxWall"]),
            jobs=formats.number(row.get("MaxJobs", row.get("MaxJobsPU", ""))),
            submitted=formats.number(row.get("MaxSubmit", row.get("MaxSubmitPU", ""))),
            group_jobs=formats.number(row["GrpJobs"]),
            group_submitted=formats.number(row["GrpSubmit"]),
            tres={key: formats.tres(value) for key, value in row.items() if "TRES" in key and value},
        )  # fmt: skip


@dataclass(frozen=True)
class Qos:
    """A quality of service."""

    limits: Limits
    flags: frozenset[str]


@dataclass(frozen=True)
class Association:
    """An account, or a user in an account; with a partition, only for jobs there."""

    account: str
    user: str
    partition: str
    parent: str  #: account above an account; empty for a user
    qos: frozenset[str]
    default_qos: str | None
    limits: Limits


@dataclass(frozen=True)
class Accounts:
    """All that sacctmgr says about a user's accounts, and which of it the site enforces."""

    default: str | None
    associations: tuple[Association, ...]  #: of the user, and of all accounts
    qos: dict[str, Qos]
    enforced: frozenset[str]  #: of associations, limits, qos, safe

    @classmethod
    def ask(cls, site: Site, user: User) -> Accounts | None:
        """Ask sacctmgr; None if the site has no accounting.

        Raises:
            NoAnswer: if there is accounting and it does not answer.
        """
        if site.settings.get("AccountingStorageType", "(null)").rpartition("/")[2] in ("none", "(null)", ""):
            return None
        cluster = site.settings.get("ClusterName", "")
        mine = _show(["user", "withassoc", "where", f"name={user.name}", f"cluster={cluster}"],
                     ("DefaultAccount", *_OF_ACCOUNT))  # fmt: skip
        above = _show(["assoc", "where", f"cluster={cluster}", "user="], _OF_ACCOUNT)
        rows = [row for row in mine if row["Account"]] + [row for row in above if not row["User"]]
        return cls(
            default=next((row["DefaultAccount"] for row in mine if row["DefaultAccount"]), None),
            associations=tuple(map(_association, rows)),
            qos={row["Name"]: _qos(row) for row in _show(["qos"], _OF_QOS)},
            enforced=enforced(site),
        )

    def association(self, account: str, partition: str) -> Association | None:
        """Return the user's association with an account, the one for the partition if there is one."""
        mine = [one for one in self.associations if one.user and one.account == account]
        return next((one for place in (partition, "") for one in mine if one.partition == place), None)

    def above(self, account: str) -> list[Association]:
        """Return an account and the accounts above it, the nearest first."""
        by_name = {one.account: one for one in self.associations if not one.user}
        found: list[Association] = []
        while account in by_name and by_name[account] not in found:
            found.append(by_name[account])
            account = found[-1].parent
        return found


def enforced(site: Site) -> frozenset[str]:
    """Return what a site enforces: of associations, limits, qos and safe."""
    words = {word.strip() for word in site.settings.get("AccountingStorageEnforce", "").split(",")}
    return frozenset(words.union(*(_INCLUDED.get(word, set()) for word in words)) - {"none", ""})


def _association(row: dict[str, str]) -> Association:
    account, user = row["Account"], row["User"]
    title = f"account {account}" + (f" of user {user}" if user else "")
    return Association(
        account, user, row["Partition"], row["ParentName"], formats.names(row["QOS"]) or frozenset(),
        row["DefaultQOS"] or None, Limits.of(title, "account", account, row),
    )  # fmt: skip


def _qos(row: dict[str, str]) -> Qos:
    limits = Limits.of(f"QOS {row['Name']}", "qos", row["Name"], row)
    return Qos(limits, formats.names(row["Flags"]) or frozenset())


def _show(words: list[str], fields: tuple[str, ...]) -> list[dict[str, str]]:
    """Return the lines of `sacctmgr show WORDS` with these fields. Lines with another number of fields are left out."""
    command = ["sacctmgr", "--noheader", "--parsable2", "show", *words, f"format={','.join(fields)}"]
    answer = call(command)
    if not answer.ok:
        raise NoAnswer(f"sacctmgr does not answer: {answer.stderr.strip()}")
    rows = (line.split("|") for line in answer.stdout.splitlines())
    return [dict(zip(fields, row, strict=True)) for row in rows if len(row) == len(fields)]
