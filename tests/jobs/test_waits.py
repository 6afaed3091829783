"""Which rule of a site would let a job wait forever, in cases that need other clusters than the sandbox."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobs.plan.cluster import StageResources
from jobs.slurm.check import waits
from jobs.slurm.rules.accounting import Accounts, Association, Limits, Qos
from jobs.slurm.rules.partitions import clock
from jobs.slurm.rules.quotas import Account, Queued, too_many
from jobs.slurm.rules.request import Request
from jobs.slurm.rules.site import Node, Partition, Site, User
from tests.jobs.conftest import FakeSlurm

ME = User("me", 1000, frozenset({"students"}))
NODE = Node("n1", frozenset({"gpu"}), True, 8, 20000.0, {"a100": 4}, frozenset({"ib"}))


def site(*nodes: Node, **settings: str) -> Site:
    return Site({"gpu": Partition("gpu", is_default=True)}, nodes, settings)


def asked(jobs: int = 1, **resources: object) -> Request:
    return Request.of("train", StageResources(**resources), jobs)


def broken(request: Request, where: Site, accounts: Accounts | None = None) -> list[str]:
    return waits(request, where, ME, accounts)[0]


def test_nodes_that_a_site_does_not_show_are_not_counted() -> None:
    assert broken(asked(nodes=99, cpus_per_task=999), site()) == []
    unknown = Node("n1", frozenset({"gpu"}))
    assert broken(asked(cpus_per_task=999, memory_gb=999), site(unknown)) == []


def test_gpus_of_one_type_are_counted_as_such() -> None:
    options = {"options": {"gpus-per-node": "h100:2"}}
    (text,) = broken(asked(gpus_per_node=2, **options), site(NODE))
    assert "have at most 0 GPUs of type h100, and the job asks for 2 GPUs of type h100 per node" in text
    assert broken(asked(gpus_per_node=2, options={"gres": "gpu:a100:2"}), site(NODE)) == []


def test_nodes_that_have_each_but_not_all_are_too_few() -> None:
    small, bare = replace(NODE, cpus=2), replace(NODE, gpus={})
    (text,) = broken(asked(gpus_per_node=1, cpus_per_task=4), site(small, bare))
    assert "partition gpu has 0 nodes with all that the job asks for, and train.nodes is 1" in text
    (text,) = broken(asked(nodes=2, gpus_per_node=1), site(NODE, bare))
    assert "partition gpu has 1 node with 1 GPU per node, and train.nodes is 2" in text


@pytest.mark.parametrize(
    ("state", "usable"),
    [
        ("IDLE", True), ("MIXED+PLANNED", True), ("IDLE+CLOUD+POWERED_DOWN", True), ("ALLOCATED*", True),
        ("DOWN*", False), ("IDLE+DRAIN", False), ("DOWN+NOT_RESPONDING", False), ("MIXED+DRAIN", False), ("", True),
    ],
)  # fmt: skip
def test_state_of_a_node(state: str, usable: bool) -> None:
    assert Node.of({"NodeName": "n1", "State": state}).usable is usable


def test_partition_of_which_little_is_known_takes_all() -> None:
    assert Partition.of({"PartitionName": "x", "New": "field", "MaxTime": "odd"}) == Partition("x")


def limits(title: str, kind: str, **more: object) -> Limits:
    return Limits(title, kind, title.rsplit(maxsplit=1)[-1], **more)  # type: ignore[arg-type]


def accounts(qos: Qos, mine: Limits, above: Limits, *enforced: str) -> Accounts:
    names = frozenset({"normal", qos.limits.name})
    return Accounts(
        "team",
        (
            Association("team", "me", "", "", names, "normal", mine),
            Association("team", "", "", "lab", names, None, limits("account team", "account")),
            Association("lab", "", "", "root", names, None, above),
        ),
        {qos.limits.name: qos},
        frozenset(enforced),
    )


def test_first_source_that_sets_a_limit_determines_it() -> None:
    qos = Qos(limits("QOS long", "qos", wall=7200, tres={"GrpTRES": {"cpu": 10.0}}), frozenset())
    mine = limits("account team of user me", "account", wall=60)
    lab = limits("account lab", "account", tres={"GrpTRES": {"cpu": 2.0, "gres/gpu": 1.0}})
    known = accounts(qos, mine, lab, "associations", "limits", "qos")
    assert broken(asked(time="01:00:00", qos="long", cpus_per_task=4), site(NODE), known) == []
    texts = broken(asked(time="03:00:00", qos="Long", gpus_per_node=2, cpus_per_task=9), site(), known)
    assert [text.partition(" allows ")[0] for text in texts] == ["QOS long", "QOS long", "account lab"]
    assert broken(asked(time="00:02:00"), site(NODE), known)[0].startswith("account team of user me allows 00:01:00")


def test_limits_that_are_not_enforced_hold_no_job_back() -> None:
    qos = Qos(limits("QOS long", "qos", wall=60), frozenset())
    tight = limits("account team of user me", "account", wall=60, jobs=0)
    assert broken(asked(qos="long"), site(NODE), accounts(qos, tight, limits("account lab", "account"))) == []
    assert broken(asked(account="physics"), site(NODE), accounts(qos, tight, tight)) == []


def test_qos_is_exempt_from_limits_of_the_partition_if_its_flags_say_so() -> None:
    where = Site({"gpu": Partition("gpu", is_default=True, max_seconds=600)}, (), {})
    for flags, count in ((frozenset[str](), 1), (frozenset({"PartitionTimeLimit"}), 0)):
        none = limits("account lab", "account")
        known = accounts(Qos(limits("QOS long", "qos"), flags), none, none, "associations")
        assert len(broken(asked(qos="long", time="01:00:00"), where, known)) == count


def test_limit_of_running_jobs_is_a_notice_and_none_at_all_is_a_reason() -> None:
    account = Account.of(asked(), Partition("gpu"), None)
    two = replace(account, limits=(limits("account team", "account", jobs=2),))
    assert "lets 2 jobs of yours run at once" in two.notice(asked(jobs=3))
    assert (two.notice(asked(jobs=2)), list(two.problems(asked(jobs=3)))) == ("", [])
    none = replace(account, limits=(limits("account team", "account", jobs=0),))
    assert "allows no running jobs" in next(none.problems(asked()))


def test_jobs_in_the_queue_count_with_those_of_all_stages() -> None:
    lab = limits("account lab", "account", group_submitted=10)
    account = replace(Account.of(asked(), Partition("gpu"), None), limits=(lab,))
    stages = [(asked(jobs=4), account), (replace(asked(jobs=5), stage="extract"), account)]
    assert list(too_many(stages, [Queued("lab", "normal")])) == []
    (text,) = too_many(stages, [Queued("lab", "normal")] * 2 + [Queued("other", "normal")])
    assert "account lab allows 10 jobs in the queue (GrpSubmitJobs)" in text
    assert "the run has 9 (train 4, extract 5), with 2 of yours there now" in text


def test_site_without_accounting_is_not_asked_about_it(fake_slurm: FakeSlurm) -> None:
    assert Accounts.ask(site(AccountingStorageType="accounting_storage/none"), ME) is None
    assert fake_slurm.asked("sacctmgr") == []


def test_lines_of_sacctmgr_with_other_fields_are_left_out(fake_slurm: FakeSlurm) -> None:
    fake_slurm.says("sacctmgr", "surprise", "a|b|c")
    known = Accounts.ask(site(AccountingStorageType="accounting_storage/slurmdbd"), ME)
    assert known is not None
    assert (known.default, known.associations, known.qos) == (None, (), {})


def test_clock_shows_days_only_if_there_are_some() -> None:
    assert [clock(seconds) for seconds in (59, 3600, 90061)] == ["00:00:59", "01:00:00", "1-01:01:01"]
