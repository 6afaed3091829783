"""Two real clusters of one site, which share a database and number their jobs alike: apart, and as a federation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.conftest import SMALL, Run, Site, make_site, start_sandbox, stop_sandbox, wait_for


@pytest.fixture(scope="module")
def folders() -> Iterator[tuple[Path, Path]]:
    """The folders of two clusters, called sandbox and second."""
    first = start_sandbox()
    try:
        second = start_sandbox("--beside", str(first))
        try:
            yield first, second
        finally:
            stop_sandbox(second)
    finally:
        stop_sandbox(first)


@pytest.fixture
def here(folders: tuple[Path, Path], tmp_path: Path) -> Iterator[Site]:
    """A user's folder, and a shell on a machine of the first cluster."""
    site = make_site(folders[0], tmp_path / "home")
    (site.home / "other.yaml").write_text(f"{SMALL}clusters: second\n")
    yield site
    for one in (site, there(site, folders)):
        one.call("scancel", "--user", "root", check=False)
        wait_for(lambda one=one: not one.queue())


def there(site: Site, folders: tuple[Path, Path]) -> Site:
    """The same folder, and a shell on a machine of the second cluster."""
    return Site(folders[1], site.home)


def shown(site: Site, *runs: str) -> list[dict[str, Any]]:
    return list(json.loads(site.trex("status", "--json", *runs).stdout))


def urgent(site: Site, cluster: str, node: str, seconds: int) -> None:
    """Submit an urgent job that takes all GPUs of a node of one cluster of the federation."""
    words = ["--clusters", cluster, "-p", "urgent", "-w", node, "--gres=gpu:4", "-o", "/dev/null"]
    site.call("sbatch", *words, "--wrap", f"sleep {seconds}")


def train(site: Site, name: str, cluster: str) -> Run:
    site.trex("train", "tiny.yaml", "--cluster", cluster, f"name={name}")
    return site.run_of(name)


def test_jobs_of_two_clusters_with_the_same_id_are_kept_apart(here: Site, folders: tuple[Path, Path]) -> None:
    other = there(here, folders)
    waiting = train(here, "waiting", "small.yaml")
    wait_for(lambda: waiting.events("attempt_started"))
    here.trex("cancel", "waiting")
    run = train(here, "run", "other.yaml")
    job = run.jobs()["train"]
    assert job == waiting.jobs()["train"], "both clusters count from 1"
    run.reach(3)
    run.interrupt(lambda: other.preempt("n1"))
    wait_for(lambda: other.restarts(job) == 1)
    other.call("scontrol", "update", f"job={job}", "comment=edited")
    run.reach(30)
    assert (
        "train: already in the queue as job"
        in here.trex("train", "tiny.yaml", "--cluster", "other.yaml", "name=run").stderr
    )
    other.ended(job)
    assert other.accounting(job, starts=2)[-1] == "COMPLETED"
    wait_for(lambda: here.accounting(job)[-1].startswith("CANCELLED"))
    assert shown(here, "run", "waiting") == shown(other, "run", "waiting")
    done, cancelled = shown(here, "run", "waiting")
    assert done["stages"]["train"]["state"] == "done"
    assert done["restarts"] == 1
    assert done["usage"]["train"]["seconds"] > cancelled["usage"]["train"]["seconds"]
    here.trex("report", "run")


def test_unknown_cluster_is_a_mistake_and_not_a_busy_slurm(here: Site) -> None:
    (here.home / "wrong.yaml").write_text(f"{SMALL}clusters: secnod\n")
    for command in ("check", "train"):
        done = here.trex(command, "tiny.yaml", "--cluster", "wrong.yaml", "name=wrong", check=False)
        assert done.returncode == 2
        said = done.stdout + done.stderr
        assert "Slurm knows no cluster 'secnod': expected one that `sacctmgr show cluster` lists" in said
        assert "not known whether" not in said
        assert "trying again" not in said
    assert not (here.run_of("wrong").root / "jobs" / "submitted.jsonl").exists()


def test_job_is_followed_to_the_cluster_of_the_federation_that_starts_it(
    here: Site, folders: tuple[Path, Path]
) -> None:
    other = there(here, folders)
    here.call("sacctmgr", "--immediate", "add", "federation", "both", "clusters=sandbox,second")
    try:
        wait_for(lambda: "second" in here.call("scontrol", "show", "federation").stdout)
        for node in ("n1", "n2", "n3", "n4"):  # full, so the second cluster starts the job
            urgent(here, "sandbox", node, seconds=600)
        run = train(here, "run", "small.yaml")
        job = run.jobs()["train"]
        run.reach(3)
        with run.frozen():
            assert here.queue().get(job) in ("REVOKED", None), "Slurm 24.11 does not show it here"
            assert other.queue()[job] == "RUNNING"
            (part,) = shown(here, "run")[0]["stages"]["train"]["parts"]
            assert (part["state"], part["job"]) == ("running", job)
            assert part["why"].startswith("on n")
            again = here.trex("train", "tiny.yaml", "--cluster", "small.yaml", "name=run")
            assert "train: already in the queue as job" in again.stderr
        run.interrupt(lambda: urgent(other, "second", other.node_of(job), seconds=1))
        run.reach(45)
        wait_for(lambda: job not in other.queue())
        (done,) = shown(here, "run")
        assert done["stages"]["train"]["state"] == "done"
        assert done["restarts"] == 1
        assert done["usage"]["train"]["seconds"] > 0
    finally:
        here.call("sacctmgr", "--immediate", "delete", "federation", "both")
