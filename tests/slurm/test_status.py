"""What `trex status` and `trex logs` show while a run is preempted, cancelled or leaves the queue."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from typing import Any

import pytest

from tests.slurm.conftest import TREX, Run, Site, wait_for


def status(run: Run) -> dict[str, Any]:
    """Return the run's status from `trex status --json`."""
    return json.loads(run.site.trex("status", run.name, "--json").stdout)[0]


def allocated(site: Site, job: str) -> int:
    """Return the seconds for which the nodes of a job were allocated, over all its starts, from accounting."""
    words = ["sacct", "-D", "-X", "-n", "-P", "-j", job, "-o", "ElapsedRaw"]
    return sum(int(line) for line in site.call(*words).stdout.split())


def test_status_and_logs_of_a_run_that_is_preempted_twice_and_cancelled(site: Site) -> None:
    site.trex("train", "tiny.yaml", "name=watched", "train.epochs=200", "--cluster", "small.yaml")
    run = site.run_of("watched")
    job = run.jobs()["train"]
    # started before the job: it waits for the log
    words = [*TREX, "logs", "watched", "--follow"]
    with subprocess.Popen(
        words, cwd=site.home, env=site.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as follow:
        assert follow.stdout is not None
        run.reach(4)
        already = run.step()
        assert any(f"step {(already + 3) % 15 + 1}/15" in line for line in follow.stdout), "new lines are printed"
        follow.terminate()

    for preemptions in (1, 2):
        site.preempt(site.node_of(job))
        resumed = wait_for(lambda n=preemptions: run.events("training_resumed")[n - 1 :])[0]["step"]
        run.reach(resumed + 5)
    during = status(run)
    train = during["stages"]["train"]
    assert (train["state"], train["parts"][0]["job"]) == ("running", job)
    assert during["step"] >= resumed + 5
    assert during["steps"] == 200 * 15
    assert during["images_per_second"] > 0
    assert during["seconds_left"] > 0
    assert during["restarts"] == 2
    assert [stop.partition(",")[0] for stop in during["stops"]] == ["preempted or cancelled"] * 2
    assert during["advice"] == ""

    site.call("scancel", job)
    site.ended(job)
    site.accounting(job)
    after = status(run)
    assert after["allocated_seconds"] == pytest.approx(allocated(site, job), abs=1)
    assert 0 < after["goodput"] < 1
    used = after["usage"]["train"]
    assert used["gpu_seconds"] == used["core_seconds"] == used["seconds"] == after["allocated_seconds"], "1 GPU, 1 CPU"
    assert after["stages"]["train"]["state"] == "gone"
    text = site.trex("status", "watched").stdout
    assert "GONE" in text
    assert "ended as CANCELLED; saved at step" in text
    assert "continue with: trex retry watched" in text
    assert "used: train 0.0" in text


def test_job_that_left_the_queue_before_it_started_is_shown_as_gone(site: Site) -> None:
    held = (site.home / "small.yaml").read_text().replace("extract: {", 'extract: {options: {hold: "yes"}, ')
    (site.home / "held.yaml").write_text(held)
    site.trex("run", "tiny.yaml", "name=vanished", "extract.weights=pixels", "--cluster", "held.yaml")
    run = site.run_of("vanished")
    assert status(run)["stages"]["extract"]["state"] == "on hold"
    assert site.trex("retry", "vanished", "--dry-run").stdout == "", "all jobs are in the queue"
    site.call("scancel", run.jobs()["extract-digits"].partition("_")[0])
    site.ended(*(job for key, job in run.jobs().items() if key != "report"))
    after = status(run)
    assert after["stages"]["extract"]["state"] == after["stages"]["probe"]["state"] == "gone"
    assert after["advice"] == "trex retry vanished"


def test_job_is_known_with_another_comment_and_from_another_shell_and_shown_as_it_is(site: Site) -> None:
    """The shell that submits names the cluster; the comment is edited; the job is held and suspended."""
    names_cluster = {"env": {**site.environment, "SLURM_CLUSTERS": "sandbox"}}
    (site.home / "held.yaml").write_text(
        (site.home / "small.yaml").read_text().replace("lead: 20}", "lead: 20, options: {hold: yes}}", 1)
    )
    site.trex("train", "tiny.yaml", "name=known", "--cluster", "held.yaml", **names_cluster)
    run = site.run_of("known")
    job = run.jobs()["train"]
    site.call("scontrol", "update", f"jobid={job}", "comment=the accounting department was here")

    def shown() -> tuple[str, str]:
        (found,) = json.loads(site.trex("status", "known", "--json").stdout)
        (part,) = found["stages"]["train"]["parts"]
        return part["state"], part["why"]

    assert shown() == ("on hold", f"JobHeldUser: scontrol release {job}")
    again = site.trex("train", "tiny.yaml", "name=known", "--cluster", "held.yaml")
    assert f"train: already in the queue as job {job}" in again.stderr
    site.call("scontrol", "release", job)
    run.reach(3)
    site.call("scontrol", "suspend", job)
    state, why = shown()
    assert (state, f"scontrol resume {job}" in why) == ("suspended", True)
    site.call("scontrol", "resume", job)
    (site.home / "other").mkdir()
    site.trex("cancel", str(run.root), cwd=site.home / "other")
    site.ended(job)
    assert site.accounting(job)[-1] == "CANCELLED"
    said = site.trex("status", str(run.root), cwd=site.home / "other").stdout
    assert "continue with: trex retry known" in said


def test_preemption_that_is_under_way_is_shown(site: Site) -> None:
    """A job of its own that takes its time to end: a training may have saved and left before anybody looks."""
    words = ["--parsable", "-p", "gpu", "--gres=gpu:1", "--requeue", "-o", "/dev/null"]
    job = site.call("sbatch", *words, "--wrap", "trap : TERM; for i in $(seq 60); do sleep 1; done").stdout.strip()
    wait_for(lambda: site.queue().get(job) == "RUNNING")
    code = "from jobs.slurm import queue; print({str(one.id): one.state.value for one in queue.entries()})"

    def state() -> str:
        return ast.literal_eval(site.call(sys.executable, "-c", code).stdout).get(job, "")

    assert state() == "running"
    site.urgent(site.node_of(job))
    assert wait_for(lambda: (found := state()) != "running" and found) == "preempted"
    site.call("scancel", job)
