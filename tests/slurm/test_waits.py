"""`trex check` on a real Slurm: each reason for which a job would wait forever has its line, until it is repaired."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.slurm.rules.site import User
from tests.slurm.conftest import has_ended, start_sandbox, stop_sandbox, wait_for

RECIPE = "extract: {weights: pixels, datasets: [digits], crop: 8, resize: 8}\nprobe: {seeds: 1}\n"
CLUSTER = """kind: slurm
train: {partition: cpu, time: "00:10:00"}
extract: {partition: cpu, time: "00:10:00"}
probe: {%s}
report: {partition: cpu, time: "00:10:00"}
"""


@dataclass
class Slurm:
    """A Slurm that enforces the limits of accounts and QOS."""

    folder: Path

    def __call__(self, line: str) -> str:
        """Run a command of the administrator. Returns its output."""
        done = subprocess.run(
            line.split(), check=True, capture_output=True, env=self.environment, timeout=120, text=True
        )
        return done.stdout

    def resume(self, node: str) -> None:
        """Return a drained node to service. Slurm 24.11 takes it for not responding for a moment."""
        self(f"scontrol update NodeName={node} State=RESUME")
        wait_for(lambda: self(f"sinfo --noheader --partition=mine --nodes={node} --format=%T").strip() == "idle")

    @property
    def environment(self) -> dict[str, str]:
        path = os.environ["PATH"] + ":/usr/local/sbin:/usr/sbin:/sbin"
        conf = str(self.folder / "slurm.conf")
        return {**os.environ, "SLURM_CONF": conf, "TREX_SANDBOX": str(self.folder), "PATH": path}


@pytest.fixture(scope="module")
def enforcing() -> Iterator[Slurm]:
    folder = start_sandbox()
    try:
        slurm = Slurm(folder)
        with (folder / "slurm.conf").open("a") as file:
            file.write("AccountingStorageEnforce=limits,qos\nAccountingStorageTRES=gres/gpu\n")
        pid = int((folder / "slurmctld.pid").read_text())
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: has_ended(pid))
        subprocess.run(["slurmctld"], check=True, cwd=folder, env=slurm.environment)
        wait_for(
            lambda: "idle" in subprocess.run(["sinfo"], capture_output=True, text=True, env=slurm.environment).stdout
        )
        slurm("sacctmgr -i add account lab")
        slurm("sacctmgr -i add account team parent=lab")
        for account in ("team", "lab"):
            slurm(f"sacctmgr -i add user {User.here().name} account={account}")
        slurm("sacctmgr -i add user guest account=lab")
        slurm("sacctmgr -i add qos long")
        yield slurm
    finally:
        stop_sandbox(folder)


@pytest.fixture
def slurm(enforcing: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_CONF", enforcing.environment["SLURM_CONF"])
    Path("recipe.yaml").write_text(RECIPE)
    enforcing("scontrol create PartitionName=mine Nodes=n[1-2] MaxTime=60")
    yield enforcing
    enforcing("scontrol delete PartitionName=mine")


def check(capsys: pytest.CaptureFixture[str], probe: str) -> list[str]:
    """Return the lines about the stage probe that say FAIL, or those about the limits of jobs in the queue."""
    Path("cluster.yaml").write_text(CLUSTER % probe)
    code = main(["check", "recipe.yaml", "--cluster", "cluster.yaml"])
    lines = capsys.readouterr().out.splitlines()
    failed = [line.removeprefix("FAIL  slurm: ") for line in lines if line.startswith("FAIL")]
    assert code == (2 if failed else 0), lines
    return failed


MINE = 'partition: mine, time: "00:30:00"'
TEAM = f"{MINE}, account: team"


@pytest.mark.parametrize(
    ("rule", "asked", "line", "repair"),
    [
        ("MaxTime=10", MINE, "allows 00:10:00 (MaxTime), and probe.time is 00:30:00", "MaxTime=1-00:00:00"),
        ("State=DOWN", MINE, "partition mine is DOWN", "State=UP"),
        ("State=DRAIN", MINE, "partition mine is DRAIN", "State=UP"),
        ("State=INACTIVE", MINE, "partition mine is INACTIVE", "State=UP"),
        ("MinNodes=2", MINE, "at least 2 nodes per job (MinNodes), and probe.nodes is 1", "MinNodes=1"),
        ("MaxNodes=0", MINE, "allows 0 nodes per job (MaxNodes)", "MaxNodes=2"),
        (
            "MaxCPUsPerNode=2", f"{MINE}, cpus_per_task: 3",
            "allows 2 CPUs per node (MaxCPUsPerNode), and the job asks for 3: lower probe.cpus_per_task",
            "MaxCPUsPerNode=3",
        ),
        (
            "MaxMemPerNode=2048", f"{MINE}, memory_gb: 3",
            "allows 2 GB per node (MaxMemPerNode), and the job asks for 3 GB: lower probe.memory_gb",
            "MaxMemPerNode=3072",
        ),
        ("MaxMemPerNode=2048", MINE, "asks for all of a node: set probe.memory_gb", "MaxMemPerNode=0"),
        ("AllowAccounts=lab", TEAM, "allows lab (AllowAccounts), and the job has the account", "AllowAccounts=team"),
        ("DenyAccounts=team", TEAM, "denies the account team (DenyAccounts): change probe.account", "DenyAccounts=lab"),
        ("AllowQos=long", MINE, "allows long (AllowQos), and the job has the QOS normal", "AllowQos=normal,long"),
        ("DenyQos=normal", MINE, "denies the QOS normal (DenyQos): change probe.qos", "DenyQos=long"),
        ("ReqResv=YES", MINE, "takes jobs in a reservation only (ReqResv)", "ReqResv=NO"),
    ],
)  # fmt: skip
def test_rule_of_a_partition(
    slurm: Slurm, capsys: pytest.CaptureFixture[str], rule: str, asked: str, line: str, repair: str
) -> None:
    slurm(f"scontrol update PartitionName=mine {rule}")
    (failed,) = check(capsys, asked)
    assert line in failed
    assert failed.startswith("probe: ")
    slurm(f"scontrol update PartitionName=mine {repair}")
    assert check(capsys, asked) == []


@pytest.mark.parametrize(("rule", "line"), [
    ("AllowGroups=daemon", "allows the groups daemon (AllowGroups), and guest is in guests"),
    ("RootOnly=YES", "takes jobs from root only (RootOnly)"),
])  # fmt: skip
def test_rule_about_users_who_are_not_root(
    slurm: Slurm, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, rule: str, line: str
) -> None:
    monkeypatch.setattr(User, "here", classmethod(lambda cls: cls("guest", 4711, frozenset({"guests"}))))
    slurm(f"scontrol update PartitionName=mine {rule}")
    (failed,) = check(capsys, MINE)
    assert line in failed
    slurm("scontrol update PartitionName=mine AllowGroups=guests RootOnly=NO")
    assert check(capsys, MINE) == []


@pytest.mark.parametrize(
    ("asked", "line", "repaired"),
    [
        (
            f"{MINE}, cpus_per_task: 9",
            "have at most 8 CPUs, and the job asks for 9 CPUs per node: change probe.cpus",
            "8",
        ),
        (
            f"{MINE}, tasks_per_node: 1, gpus_per_node: 5",
            "have at most 4 GPUs, and the job asks for 5 GPUs per node: change probe.gpus",
            "4",
        ),
        (
            f"{MINE}, memory_gb: 20",
            "have at most 19.53 GB, and the job asks for 20 GB per node: change probe.mem",
            "19",
        ),
    ],
)
def test_nodes_that_do_not_have_what_a_job_asks_for(
    slurm: Slurm, capsys: pytest.CaptureFixture[str], asked: str, line: str, repaired: str
) -> None:
    (failed,) = check(capsys, asked)
    assert line in failed
    assert check(capsys, asked.rpartition(" ")[0] + f" {repaired}") == []


def test_nodes_that_lack_a_feature_or_are_drained(slurm: Slurm, capsys: pytest.CaptureFixture[str]) -> None:
    (failed,) = check(capsys, f"{MINE}, constraint: h100")
    assert "have the features (none), and the job asks for h100: change probe.constraint" in failed
    slurm("scontrol update NodeName=n2 AvailableFeatures=h100")
    slurm("scontrol update NodeName=n2 ActiveFeatures=h100")
    assert check(capsys, f"{MINE}, constraint: h100") == []
    slurm("scontrol update NodeName=n[1-2] State=DRAIN Reason=test")
    try:
        (failed,) = check(capsys, MINE)
        assert "partition mine has 2 nodes for this job, but 2 of them are down or drained" in failed
        slurm.resume("n2")
        assert check(capsys, MINE) == []
        assert check(capsys, f"{MINE}, constraint: h100") == []
    finally:
        slurm.resume("n1")


def test_one_of_several_partitions_is_enough(slurm: Slurm, capsys: pytest.CaptureFixture[str]) -> None:
    slurm("scontrol update PartitionName=mine MaxTime=10")
    assert check(capsys, 'partition: "mine,cpu", time: "00:30:00"') == []
    slurm("scontrol update PartitionName=cpu State=DRAIN")
    try:
        failed = check(capsys, 'partition: "mine,cpu", time: "00:30:00"')
        assert [name in " ".join(failed) for name in ("partition mine allows", "partition cpu is DRAIN")] == [
            True,
            True,
        ]
    finally:
        slurm("scontrol update PartitionName=cpu State=UP")


def test_reservation_that_does_not_exist(slurm: Slurm, capsys: pytest.CaptureFixture[str]) -> None:
    asked = f"{MINE}, options: {{reservation: course}}"
    (failed,) = check(capsys, asked)
    assert "reservation 'course' does not exist" in failed
    slurm(
        f"scontrol create reservation ReservationName=course Users={User.here().name} Nodes=n1 StartTime=now Duration=9"
    )
    try:
        assert check(capsys, asked) == []
    finally:
        slurm("scontrol delete ReservationName=course")


@pytest.mark.parametrize(
    ("entity", "rule", "asked", "line", "repair"),
    [
        ("account team", "MaxWall=10", TEAM, "allows 00:10:00 (MaxWall), and probe.time is 00:30:00", "MaxWall=-1"),
        (
            "account lab", "GrpTRES=cpu=2", f"{TEAM}, cpus_per_task: 3",
            "account lab allows 2 CPUs to all jobs (GrpTRES), and the job asks for 3 CPUs", "GrpTRES=cpu=-1",
        ),
        (
            "account team", "MaxTRES=gres/gpu=2", f"{TEAM}, tasks_per_node: 1, gpus_per_node: 3",
            "allows 2 GPUs per job (MaxTRES), and the job asks for 3 GPUs: lower probe.gpus", "MaxTRES=gres/gpu=-1",
        ),
        ("account team", "GrpJobs=0", TEAM, "account team allows no running jobs", "GrpJobs=-1"),
        ("account team", "MaxSubmitJobs=0", TEAM, "allows 0 jobs in the queue (MaxSubmitJobs)", "MaxSubmitJobs=-1"),
        ("account lab", "GrpSubmitJobs=0", TEAM, "allows 0 jobs in the queue (GrpSubmitJobs)", "GrpSubmitJobs=-1"),
        (
            "qos normal", "MaxTRESPerUser=mem=2G", f"{MINE}, memory_gb: 3",
            "QOS normal allows 2 GB to all jobs of a user (MaxTRESPU), and the job asks for 3", "MaxTRESPerUser=mem=-1",
        ),
        (
            "qos normal", "MaxTRESMinsPerJob=cpu=20", MINE,
            "allows 20 CPU minutes per job (MaxTRESMins), and the job asks for 30", "MaxTRESMinsPerJob=cpu=-1",
        ),
        (
            "qos normal", "MinTRES=gres/gpu=1", MINE,
            "at least 1 GPU per job (MinTRES), and the job asks for 0 GPUs: raise probe.gpus", "MinTRES=gres/gpu=-1",
        ),
    ],
)  # fmt: skip
def test_limit_of_an_account_or_qos(
    slurm: Slurm, capsys: pytest.CaptureFixture[str], entity: str, rule: str, asked: str, line: str, repair: str
) -> None:
    kind, name = entity.split()
    slurm(f"sacctmgr -i modify {kind} {name} set {rule}")
    try:
        failed = check(capsys, asked)
    finally:
        slurm(f"sacctmgr -i modify {kind} {name} set {repair}")
    assert [text for text in failed if line in text], failed
    assert check(capsys, asked) == []


def test_account_and_qos_that_the_user_does_not_have(slurm: Slurm, capsys: pytest.CaptureFixture[str]) -> None:
    (failed,) = check(capsys, f"{MINE}, account: physics")
    assert "account physics is not one of yours; your accounts are lab, root, team: change probe.account" in failed
    (failed,) = check(capsys, f"{TEAM}, qos: long")
    assert "account team allows the QOS normal, and the job has long: change probe.qos" in failed
    slurm("sacctmgr -i modify account team set qos+=long")
    assert check(capsys, f"{TEAM}, qos: long") == []
