"""A training on two nodes with four processes that is interrupted by Slurm, by a user or by a node failure."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.slurm.conftest import ROOT, Run, Site, make_site, process_status, wait_for
from trex.errors import ExitCode


def train(site: Site, name: str, *settings: str, cluster: str = "sandbox") -> Run:
    """Submit a training on two nodes with two processes each."""
    site.trex("train", "tiny.yaml", f"name={name}", *settings, "--cluster", cluster)
    return site.run_of(name)


def finish(run: Run) -> dict[str, Any]:
    """Wait until a training has finished, and return everything in its last checkpoint."""
    run.site.ended(run.jobs()["train"])
    assert run.state()["state"] == "done", run.log()
    return run.final_state()


def reach_time_limit(run: Run, job: str) -> None:
    """Shorten the time limit of a job until Slurm sends its warning, then restore the limit before the next start.

    Slurm takes up to half a minute to send the warning.
    """

    def set_limit(minutes: int) -> bool:
        words = ("scontrol", "update", f"jobid={job}", f"timelimit={minutes}")
        return run.site.call(*words, check=False).returncode == 0

    run.interrupt(lambda: wait_for(lambda: set_limit(5)), signal.SIGUSR2)
    wait_for(lambda: set_limit(30), every=0.05)  # Slurm refuses this while it cleans up after a start


def modified(run: Run) -> dict[Path, int]:
    """Return when each file of a run's checkpoints and metrics was written."""
    paths = [*run.root.glob("checkpoints/*/*"), run.root / "metrics.jsonl"]
    return {path: path.stat().st_mtime_ns for path in paths}


def assert_same(one: Any, other: Any, where: str = "state") -> None:
    """Assert that two values are equal, bit by bit."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), f"{where} differs"
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}[{number}]")
    else:
        assert one == other, where


def assert_equals_uninterrupted(run: Run, uninterrupted: dict[str, Any]) -> None:
    """Assert that a run ends with the same weights, optimizer, memory bank, order and random numbers."""
    state = finish(run)
    for part in set(state) - {"config", "metrics_position"}:
        assert_same(state[part], uninterrupted[part], part)


def steps_printed(run: Run) -> list[tuple[int, int]]:
    """Return epoch and step of every step that was computed, in order. Each step is logged, and logs are appended."""
    found = re.findall(r"epoch (\d+)/\d+ step (\d+)/\d+: loss", run.log())
    return [(int(epoch), int(step)) for epoch, step in found]


def seconds_to_requeue(run: Run) -> list[float]:
    """Return the seconds from each stop signal until Slurm requeued the job."""
    words = ["sacct", "-D", "-X", "-n", "-P", "-j", run.jobs()["train"], "-o", "State,End"]
    rows = [line.split("|") for line in run.site.call(*words).stdout.splitlines()]
    times = [datetime.fromisoformat(end) for state, end in rows if state in ("REQUEUED", run.site.preempted)]
    saves = [event for event in run.events("checkpoint") if event["reason"] == "stop"]
    signals = [datetime.fromtimestamp(event["time"] - event["seconds_signal_to_saved"]) for event in saves]
    return [(time - signal).total_seconds() for time, signal in zip(times, signals, strict=True)]


def is_down(site: Site, node: str) -> bool:
    """Return whether Slurm has marked a node as down."""
    return site.call("sinfo", "--noheader", "--nodes", node, "--format", "%T").stdout.startswith("down")


@pytest.fixture(scope="module")
def plain(cluster_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run that was not interrupted."""
    run = train(make_site(cluster_folder, tmp_path_factory.mktemp("plain")), "plain")
    finish(run)
    return run


@pytest.fixture(scope="module")
def uninterrupted(plain: Run) -> dict[str, Any]:
    """The last checkpoint of a run that was not interrupted."""
    return plain.final_state()


@pytest.fixture(scope="module")
def unlucky(cluster_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training that is asked to stop in each start as soon as it runs. Submitted early because it takes long."""
    site = make_site(cluster_folder, tmp_path_factory.mktemp("unlucky"))
    jobs = site.run_of("unlucky").root / "jobs"
    # The signal goes directly to the process, whose id is in the lock: Slurm would be too slow on a fast machine.
    process = f"$(sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p' {jobs}/train.lock.*)"
    line = f"(until grep -q '\"running\"' {jobs}/train.state.json; do sleep 0.05; done; kill -TERM {process}) &"
    stage = 'train: {partition: cpu, time: "00:30:00", signal_lead: 20}'  # where no other test preempts it
    (site.home / "unlucky.yaml").write_text(f"kind: slurm\n{stage}\nsetup: {json.dumps([line])}\n")
    site.trex("train", "tiny.yaml", "name=unlucky", "--cluster", "unlucky.yaml")
    return site.run_of("unlucky")


@pytest.mark.usefixtures("unlucky")
def test_finished_training_that_is_requeued_ends_at_once_and_changes_nothing(plain: Run) -> None:
    before, job = (
        modified(plain),
        plain.jobs()["train"],
    )  # this test is first because Slurm forgets jobs after 5 minutes
    plain.site.call("scontrol", "requeue", job)
    plain.site.ended(job)
    assert plain.site.accounting(job, starts=2)[1:] == ["COMPLETED"]
    assert [event["code"] for event in plain.events("attempt_ended")] == [0, 0]
    assert modified(plain) == before
    both = plain.events("environment")
    assert [event["restart"] for event in both] == [0, 1]
    assert [[node["processes"] for node in event["nodes"]] for event in both] == [[2, 2]] * 2
    assert len({node["name"] for node in both[0]["nodes"]}) == 2
    assert both[0]["code"]["copy"] == next(path.name for path in plain.root.glob("code/*") if path.is_dir())


def test_two_preemptions_and_a_time_limit_do_not_change_the_result(site: Site, uninterrupted: dict[str, Any]) -> None:
    text = (ROOT / "configs" / "clusters" / "sandbox.yaml").read_text()
    (site.home / "warned.yaml").write_text(text.replace("signal_lead: 20", "signal_lead: 300", 1))
    run = train(site, "stopped", "data.workers=1", cluster="warned.yaml")
    job = run.jobs()["train"]
    for step, number in ((8, 0), (18, 1)):
        run.reach(step)
        node = site.nodes_of(job)[number]
        run.interrupt(lambda node=node: site.urgent(node))
    run.reach(28)
    reach_time_limit(run, job)
    assert_equals_uninterrupted(run, uninterrupted)

    assert site.accounting(job) == [site.preempted] * 2 + ["REQUEUED", "COMPLETED"]
    steps = steps_printed(run)
    assert len(steps) == len(set(steps)) == 3 * 15, "each step is computed once"
    assert max(seconds_to_requeue(run)) < 10


def test_cancelled_job_stays_cancelled_and_the_same_command_continues_at_the_saved_step(
    site: Site, uninterrupted: dict[str, Any]
) -> None:
    run = train(site, "cancelled")
    run.reach(10)
    job = run.jobs()["train"]
    run.interrupt(lambda: site.call("scancel", job))
    site.ended(job)
    assert site.accounting(job) == ["CANCELLED"]
    saved = [event["step"] for event in run.events("checkpoint") if event["reason"] == "stop"]
    assert len(saved) == 1

    train(site, "cancelled")
    assert run.jobs()["train"] != job
    assert_equals_uninterrupted(run, uninterrupted)
    assert [event["step"] for event in run.events("training_resumed")] == saved


def test_training_continues_after_each_of_its_nodes_has_failed(site: Site, uninterrupted: dict[str, Any]) -> None:
    run = train(site, "lost", "checkpoint.every_steps=10")
    job = run.jobs()["train"]
    for starts, (step, number) in enumerate(((12, 0), (26, 1)), start=1):
        run.reach(step)
        with run.frozen():
            node = site.nodes_of(job)[number]
            site.node("fail-node", node)
        wait_for(lambda node=node: is_down(site, node))
        wait_for(lambda n=starts: site.restarts(job) >= n)
        site.node("revive-node", node)
        wait_for(lambda n=starts: len(run.events("training_resumed")) >= n)
    assert_equals_uninterrupted(run, uninterrupted)
    assert site.accounting(job)[-1] == "COMPLETED"
    steps = steps_printed(run)
    assert len(steps) - len(set(steps)) <= 20, "at most the steps since the last checkpoint are computed again"


def processes_on(node: str, job: str) -> list[int]:
    """Return the processes of a job on a node, with the slurmstepd of its step there and without the batch script."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = (path / "environ").read_bytes().split(b"\0")
            if {f"SLURM_JOB_ID={job}".encode(), f"SLURMD_NODENAME={node}".encode()} <= set(variables):
                found.append(int(path.name))
    steps = {int(process_status(pid, "PPid")) for pid in found} - {*found, 1}
    return [*found, *(pid for pid in steps if process_status(pid, "Name").startswith("slurmstepd"))]


def kill_processes_on(node: str, job: str) -> None:
    """Kill everything that a job has on a node. Its slurmd lives on."""
    found = processes_on(node, job)
    assert len(found) > 2
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def cut_connections(pid: int) -> None:
    """Cut all TCP connections of a process, as a network does: with pidfd_getfd, they can be shut down from here."""
    library = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    cut = 0
    for path in Path(f"/proc/{pid}/fd").iterdir():
        if str(path.readlink()).startswith("socket:"):
            copy = library.syscall(438, pidfd, int(path.name), 0)
            assert copy >= 0, os.strerror(ctypes.get_errno())
            with socket.socket(fileno=copy) as connection, contextlib.suppress(OSError):
                if connection.family == socket.AF_INET and connection.type == socket.SOCK_STREAM:
                    connection.getpeername()  # an error if it is not connected
                    connection.shutdown(socket.SHUT_RDWR)
                    cut += 1
    os.close(pidfd)
    assert cut


def test_lost_processes_and_connections_do_not_fail_the_run(site: Site, uninterrupted: dict[str, Any]) -> None:
    run = train(site, "parts_lost", "checkpoint.every_steps=10")
    job = run.jobs()["train"]

    def second() -> str:
        return site.nodes_of(job)[1]

    def fail_for_a_moment() -> None:  # shorter than SlurmdTimeout, so Slurm never takes the node for down
        node = second()
        site.node("fail-node", node)
        site.node("revive-node", node)

    losses = (
        (12, lambda: kill_processes_on(second(), job)),
        (22, lambda: cut_connections(run.main_process())),
        (32, fail_for_a_moment),
    )
    for starts, (step, lose) in enumerate(losses, start=1):
        run.reach(step)
        with run.frozen():
            lose()
        wait_for(lambda n=starts: site.restarts(job) >= n)
        wait_for(lambda n=starts: len(run.events("training_resumed")) >= n)
    assert_equals_uninterrupted(run, uninterrupted)
    assert site.accounting(job)[-1] == "COMPLETED"
    ends = [event["code"] for event in run.events("attempt_ended")]
    assert set(ends) <= {ExitCode.LOST, ExitCode.INTERRUPTED, ExitCode.DONE}, "nobody found a mistake of its own"
    steps = steps_printed(run)
    assert len(steps) - len(set(steps)) <= 30, "at most the steps since the last checkpoint are computed again"


def test_training_that_makes_no_progress_is_given_up_with_a_message(unlucky: Run) -> None:
    job = unlucky.jobs()["train"]
    unlucky.site.ended(job)
    assert unlucky.site.accounting(job) == ["REQUEUED"] * 5 + ["FAILED"]
    assert [event["code"] for event in unlucky.events("attempt_ended")] == [75] * 5 + [78]
    assert unlucky.events("training_started") == []
    status = unlucky.site.trex("status", "unlucky").stdout
    assert "FAILED" in status
    assert "started 5 times without progress" in status
    assert "continue with: trex retry unlucky" in status
