"""Differences between sites: how they preempt, which variables a job gets, where jobs are submitted from."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.conftest import (
    HANG,
    ROOT,
    Run,
    Site,
    has_ended,
    make_site,
    process_status,
    start_sandbox,
    stop_sandbox,
    wait_for,
)
from tests.slurm.test_interruption import assert_same, processes_on
from trex.config.schema import DataConfig
from trex.datasets.pack import write_pack
from trex.datasets.places import INDEX
from trex.datasets.registry import load_splits
from trex.datasets.splits_file import from_bytes, to_bytes
from trex.errors import ExitCode
from trex.files import sha256

KEY = "extract-digits_unseen"
PIXELS = ("extract.weights=pixels", "extract.resize=8", "extract.crop=8", "extract.datasets=[digits_unseen]")


@pytest.fixture
def own_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A separate sandbox for one test, started with the options that the test gives."""
    folder = start_sandbox(*request.param)
    try:
        yield make_site(folder, tmp_path / "own")
    finally:
        stop_sandbox(folder)


def train(site: Site, name: str, *settings: str) -> Run:
    site.trex("train", "tiny.yaml", f"name={name}", *settings, "--cluster", "small.yaml")
    return site.run_of(name)


def saved_steps(run: Run) -> list[int]:
    return [event["step"] for event in run.events("checkpoint") if event["reason"] == "stop"]


def resumed_steps(run: Run) -> list[int]:
    return [event["step"] for event in run.events("training_resumed")]


@pytest.mark.parametrize("own_site", [("--user-signal",)], indirect=True, ids=["user signal"])
def test_preemption_by_the_jobs_own_signal_and_a_controller_restart_lose_no_step(own_site: Site) -> None:
    run = train(own_site, "signaled")
    job = run.jobs()["train"]
    run.reach(8)
    with run.frozen():
        restart_controller(own_site)
    run.reach(16)
    node = own_site.node_of(job)
    run.interrupt(lambda: own_site.urgent(node), signal.SIGUSR2)
    own_site.ended(job)
    assert own_site.accounting(job) == [own_site.preempted, "COMPLETED"]
    assert [event["signal"] for event in run.events("attempt_ended")] == ["SIGUSR2", None]
    assert resumed_steps(run) == saved_steps(run)
    assert run.state()["state"] == "done"


def restart_controller(site: Site) -> None:
    """Stop slurmctld and start it again, as an administrator does."""
    pid = int((site.sandbox / "slurmctld.pid").read_text())
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: has_ended(pid))
    path = site.environment["PATH"] + ":/usr/local/sbin:/usr/sbin:/sbin"
    environment = {**site.environment, "TREX_SANDBOX": str(site.sandbox), "PATH": path}
    subprocess.run(["slurmctld"], env=environment, cwd=site.sandbox, check=True)
    wait_for(lambda: site.call("scontrol", "ping", check=False).returncode == 0)


@pytest.mark.parametrize("own_site", [("--memory-limits",)], indirect=True, ids=["memory limits"])
def test_job_that_needs_too_much_memory_is_told_how_much_it_asked_for_and_used(own_site: Site) -> None:
    text = (own_site.home / "small.yaml").read_text()
    text = text.replace("train: {partition: gpu", "train: {memory_gb: 1, nodes: 2")
    assert "memory_gb" in text
    greedy = "import os, time; x = bytearray(3 << 29) if os.environ['SLURM_PROCID'] == '1' else b''; time.sleep(600)"
    (own_site.home / "sitecustomize.py").write_text(greedy)
    (own_site.home / "more.yaml").write_text(text + f"setup: ['export PYTHONPATH=$PYTHONPATH:{own_site.home}']\n")
    own_site.trex("train", "tiny.yaml", "name=greedy", "--cluster", "more.yaml")
    run = own_site.run_of("greedy")
    job = run.jobs()["train"]
    own_site.ended(job)
    assert own_site.accounting(job) == ["FAILED"], run.log()
    assert re.search(r"out of memory \(asked for 1024 MB per node; rank 1 on n\d used 1\d{3} MB\): not req", run.log())


@pytest.mark.parametrize("own_site", [("--grace", "0")], indirect=True, ids=["no grace"])
def test_preemption_without_grace_time_is_requeued_and_never_recorded_as_completed_too_early(own_site: Site) -> None:
    run = train(own_site, "at_once", "checkpoint.every_steps=10")
    job = run.jobs()["train"]
    run.reach(14)
    node = own_site.node_of(job)
    run.interrupt(lambda: own_site.urgent(node))
    own_site.ended(job)
    assert own_site.accounting(job)[-1] == "COMPLETED"
    assert "COMPLETED" not in own_site.accounting(job)[:-1]
    assert len(resumed_steps(run)) == 1
    assert resumed_steps(run)[0] >= 10, "at most what came after the last checkpoint is lost"
    assert run.state()["state"] == "done"


def with_sbatch(site: Site, lines: str) -> dict[str, Any]:
    """Return the settings of a call in which sbatch is replaced by `lines`; $real is the real one, $here a folder."""
    here = site.home / "bin"
    here.mkdir()
    real = site.call("which", "sbatch").stdout.strip()
    (here / "sbatch").write_text(f"#!/bin/sh\nhere='{here}' real={real}\n{lines}\n")
    (here / "sbatch").chmod(0o755)
    return {"env": {**site.environment, "PATH": f"{here}:{site.environment['PATH']}", "CANARY": "yellow"}}


def test_job_runs_without_the_variables_of_the_submitting_shell(site: Site) -> None:
    settings = with_sbatch(site, 'exec $real --export=NONE "$@"')
    with (site.home / "small.yaml").open("a") as file:
        file.write(f"setup: ['env > {site.home}/environment.txt']\n")
    site.trex("extract", "tiny.yaml", "name=bare", *PIXELS, "--cluster", "small.yaml", **settings)
    run = site.run_of("bare")
    site.ended(*run.jobs().values())
    assert "CANARY" not in (site.home / "environment.txt").read_text()
    assert run.state(KEY)["state"] == "done", run.log(KEY)


def test_job_can_be_submitted_from_inside_another_job(site: Site) -> None:
    words = ["--partition=cpu", "--ntasks=3", "--cpus-per-task=2", "--time=5", "--output=outer.txt", "--wait"]
    command = (
        f"{sys.executable} -m jobs.cli extract tiny.yaml name=inner {' '.join(map(repr, PIXELS))} --cluster small.yaml"
    )
    text = (site.home / "small.yaml").read_text().replace("extract: {", "extract: {cpus_per_task: 3, ")
    (site.home / "small.yaml").write_text(text)
    site.call("sbatch", *words, "--wrap", command)
    assert "submitted as job" in (site.home / "outer.txt").read_text()
    run = site.run_of("inner")
    site.ended(*run.jobs().values())
    assert run.state(KEY)["state"] == "done", run.log(KEY)
    assert run.events("attempt_started")[0]["world"] == 1
    (machines,) = run.events("environment")
    assert machines["nodes"][0]["cpus"] == 3, "its own CPUs, not the outer job's"


def test_job_runs_the_code_as_it_was_at_submission(site: Site) -> None:
    tree = site.home / "tree"
    for package in ("jobs", "trex"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    settings: dict[str, Any] = {"env": {**site.environment, "PYTHONPATH": str(tree)}}
    text = (site.home / "small.yaml").read_text().replace("extract: {", "extract: {options: {begin: now+5}, ")
    (site.home / "later.yaml").write_text(text)
    site.trex("extract", "tiny.yaml", "name=frozen", *PIXELS, "--cluster", "later.yaml", **settings)
    for path in (tree / "jobs" / "worker" / "task.py", tree / "trex" / "features" / "extract.py"):
        path.write_text("raise SystemExit('edited after the submission')\n")
    run = site.run_of("frozen")
    site.ended(*run.jobs().values())
    assert run.state(KEY)["state"] == "done", run.log(KEY)


@pytest.mark.parametrize("reply", ["lost", "refused"])
def test_busy_controller_is_tried_again_and_no_job_is_submitted_twice(site: Site, reply: str) -> None:
    first = '$real "$@" > /dev/null' if reply == "lost" else "true"
    settings = with_sbatch(
        site,
        f'[ -e "$here/asked" ] && exec $real "$@"\n{first}\ntouch "$here/asked"\n'
        "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2\nexit 1",
    )
    site.trex("extract", "tiny.yaml", "name=busy", *PIXELS, "--cluster", "small.yaml", **settings)
    run = site.run_of("busy")
    job = run.jobs()[KEY]
    wait_for(lambda: set(site.mine()) <= {job})
    site.ended(job)
    assert run.state(KEY)["job"] == job
    assert len(run.events("attempt_started")) == 1


def test_two_simultaneous_commands_submit_one_job(site: Site) -> None:
    words = ["train", "tiny.yaml", "name=both", "train.epochs=50", "--cluster", "small.yaml"]
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", *words], cwd=site.home, env=site.environment, stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    texts = [one.communicate(timeout=HANG)[1] for one in both]
    assert [one.returncode for one in both] == [0, 0], texts
    assert sorted("already in the queue" in text for text in texts) == [False, True]
    assert len(site.mine()) == 1


def test_run_folder_with_quotes_spaces_and_commands_in_its_name_works(site: Site) -> None:
    odd = make_site(site.sandbox, site.home / 'it\'s $(touch pwned) "x" ; touch pwned')
    odd.trex("extract", "tiny.yaml", "name=odd", *PIXELS, "--cluster", "small.yaml")
    run = odd.run_of("odd")
    odd.ended(*run.jobs().values())
    assert run.state(KEY)["state"] == "done", run.log(KEY)
    assert not list(site.home.rglob("pwned"))


def test_check_reports_jobs_that_slurm_would_reject_and_creates_nothing(site: Site) -> None:
    good = site.trex("check", "tiny.yaml", "--cluster", "small.yaml")
    assert "FAIL" not in good.stdout
    text = (site.home / "small.yaml").read_text()
    text = text.replace("train: {partition: gpu", "train: {partition: gpus").replace(
        "probe: {", "probe: {memory_gb: 99999, "
    )
    (site.home / "wrong.yaml").write_text(text)
    wrong = site.trex("check", "tiny.yaml", "--cluster", "wrong.yaml", check=False)
    assert wrong.returncode == 2
    failed = [line for line in wrong.stdout.splitlines() if line.startswith("FAIL")]
    assert len(failed) == 2, wrong.stdout
    assert "partition 'gpus' does not exist or is not visible to you; expected one of: cpu, gpu, urgent" in failed[0]
    assert "slurm: probe" in failed[1]
    assert not (site.home / "runs").exists()


def write_large_pack(data: Path, name: str, more: int) -> None:
    """Pack a dataset, and make one of the pack's files `more` bytes larger, so that copying it takes a while."""
    pack = data / f"{name}.pack"
    write_pack(load_splits(name, DataConfig(root=str(data))), pack, lambda _: None)
    splits = from_bytes((pack / INDEX).read_bytes())
    members = splits["test"].members
    assert members is not None
    (file,) = members.files
    size = file.size + more
    os.truncate(pack / file.path, size)
    larger = replace(members, files=(file._replace(size=size, version=sha256(pack / file.path)),))
    (pack / INDEX).write_bytes(to_bytes({**splits, "test": replace(splits["test"], members=larger)}))


def test_staging_that_is_killed_on_one_node_begins_again_and_ends_with_the_same_bits(site: Site) -> None:
    shutil.copytree(site.home / "few_digits", site.home / "data/few_digits")
    write_large_pack(site.home / "data", "few_digits", more=1 << 29)
    words = ["sinfo", "--noheader", "--Node", "--partition", "gpu", "--format", "%N"]
    nodes = sorted(site.call(*words).stdout.split())[:2]
    for node in nodes:
        (site.home / "disks" / node).mkdir(parents=True)
    stage = "partition: gpu, nodes: 2, gpus_per_node: 1, time: '00:30:00', signal_lead: 20"
    for name, more in (("plain", ""), ("staged", f"stage: {site.home}/disks/$SLURMD_NODENAME\n")):
        options = f"options: {{nodelist: '{','.join(nodes)}'}}"
        (site.home / f"{name}.yaml").write_text(f"kind: slurm\n{more}train: {{{stage}, {options}}}\n")
    data = f"data.folders.few_digits={site.home}/data/few_digits"
    runs = {}
    for name in ("staged", "plain"):
        where = data if name == "staged" else f"data.folders.few_digits={site.home}/few_digits"
        site.trex("train", "tiny.yaml", f"name={name}", "train.epochs=1", where, "--cluster", f"{name}.yaml")
        runs[name] = site.run_of(name)
    run, job = runs["staged"], runs["staged"].jobs()["train"]
    second = site.home / "disks" / nodes[1]
    wait_for(lambda: [*second.glob("*/.unfinished-*/*")], every=0.02)
    for pid in processes_on(nodes[1], job):
        if process_status(pid, "Name") != "slurmstepd":
            os.kill(pid, signal.SIGKILL)
    assert all(path.name.startswith(".unfinished-") for path in second.glob("*/*")), "the copy is not complete"
    site.ended(job, runs["plain"].jobs()["train"])
    assert run.state()["state"] == "done", run.log()
    assert [event["code"] for event in run.events("attempt_ended")][-1] == ExitCode.DONE
    assert len(run.events("attempt_started")) == 2
    assert "few_digits: read from a copy in " in run.log()
    assert " on 2 nodes: " in run.log()
    for node in nodes:
        (copy,) = (site.home / "disks" / node).glob("*/*")
        assert copy.name.endswith("-few_digits.pack")
    state, expected = run.final_state(), runs["plain"].final_state()
    for part in set(expected) - {"config", "metrics_position"}:
        assert_same(state[part], expected[part], part)
