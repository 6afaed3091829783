"""The lines after srun, in real Slurm jobs whose processes end in every possible way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.backend import load_cluster
from jobs.plan.cluster import Cluster
from jobs.plan.spec import TaskSpec
from jobs.slurm.snapshot import take_snapshot
from jobs.slurm.start import COMMAND
from jobs.slurm.submit import Submitter
from jobs.slurm.work import Work
from tests.slurm.conftest import Site, make_site, wait_for
from trex.records.run_dir import RunDir

#: Shell functions for the processes of a job. `record STATE [STARTS]` writes the file that rank 0 writes for the batch
#: script (trex/records/job_state.py); STARTS is the number of starts without progress, by default 1.
PROLOGUE = r"""
restart=${SLURM_RESTART_COUNT:-0}
id=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
id=${id:-$SLURM_JOB_ID}
record() { printf '%s %s\n%s %s\n' "$id" "$restart" "$1" "${2:-1}" > "$STATE"; }
cancel() {
    mkdir -p "${STATE%/*}/rendezvous"
    echo > "${STATE%/*}/rendezvous/train-$id-$restart.canceled.json"
}
"""


class StandIn:
    """A job with the toolkit's batch script, whose processes run `body`."""

    def __init__(
        self, site: Site, folder: Path, name: str, body: str, tasks: int = 1, setup: tuple[str, ...] = (),
        time: str = "00:05:00", options: tuple[str, ...] = ("--partition", "cpu"),
    ):  # fmt: skip
        self.site, self.run = site, RunDir(folder / name)
        self.run.slurm_jobs.mkdir(parents=True)
        sandbox = load_cluster("sandbox")
        stage = replace(sandbox.train, nodes=1, gpus_per_node=0, tasks_per_node=tasks, time=time)
        cluster: Cluster = replace(sandbox, setup=setup, train=stage)
        script = folder / f"{name}.sh"
        script.write_text(f"STATE={self.state}\n{PROLOGUE}\n{body}\n")
        take_snapshot(self.run)
        text = Submitter(self.run, cluster).text(Work((TaskSpec("train", str(self.run.root)),)))
        assert text.count(COMMAND) == 1
        text = text.replace(COMMAND, f"bash {script}")
        self.job = site.call("sbatch", "--parsable", *options, input=text).stdout.strip()

    @property
    def state(self) -> Path:
        return self.run.state_for_shell("train")

    def log(self) -> str:
        (log,) = self.run.logs(self.job, 0)
        return log.read_text()


CASES = {
    # name: (what each process does, number of processes, the state of each start in accounting)
    "saved": ("[ $restart = 1 ] && record done && exit 0; record wants_requeue; exit 75", 1, ["REQUEUED", "COMPLETED"]),
    "first_rank_out_gets_the_other_killed": (
        """[ $restart = 1 ] && { [ $SLURM_PROCID = 0 ] && record done; exit 0; }
        [ $SLURM_PROCID = 1 ] && exit 75
        trap '' TERM; sleep 2; record wants_requeue; exit 75""",
        2,
        ["REQUEUED", "COMPLETED"],
    ),
    "stopped_before_anything_was_recorded": (
        "[ $restart = 1 ] && record done && exit 0; exit 75",
        1,
        ["REQUEUED", "COMPLETED"],
    ),
    "killed": ("[ $restart = 1 ] && record done && exit 0; record running; kill -9 $$", 1, ["REQUEUED", "COMPLETED"]),
    "other_rank_killed_and_the_first_noticed": (
        """[ $restart = 1 ] && { [ $SLURM_PROCID = 0 ] && record done; exit 0; }
        [ $SLURM_PROCID = 1 ] && { until grep -q running "$STATE" 2>/dev/null; do sleep 0.1; done; kill -9 $$; }
        trap '' TERM; record running; sleep 2; cancel; exit 1""",
        2,
        ["REQUEUED", "COMPLETED"],
    ),
    "killed_again_and_again": ("record running $((restart + 1)); kill -9 $$", 1, ["REQUEUED"] * 5 + ["FAILED"]),
    "killed_again_and_again_before_it_records": ("kill -9 $$", 1, ["REQUEUED"] * 5 + ["FAILED"]),
    "killed_often_but_gets_further": (
        "[ $restart = 6 ] && record done && exit 0; record running; kill -9 $$",
        1,
        ["REQUEUED"] * 6 + ["COMPLETED"],
    ),
    "failed": ("record failed; exit 2", 1, ["FAILED"]),
    "failed_and_the_others_killed": (
        """[ $SLURM_PROCID = 0 ] && { until grep -q failed "$STATE" 2>/dev/null; do sleep 0.1; done; kill -9 $$; }
        record failed; exit 2""",
        2,
        ["FAILED"],
    ),
    "other_rank_lost": (
        "[ $restart = 1 ] && record done && exit 0; record running; exit 76",
        1,
        ["REQUEUED", "COMPLETED"],
    ),
    "end_without_a_record": ("exit 1", 1, ["REQUEUED"] * 5 + ["FAILED"]),
    "error_that_could_not_be_recorded": ("record running; exit 2", 1, ["FAILED"]),
    "program_that_is_missing": ("exec /no/such/python", 1, ["FAILED"]),
    "bus_error": (
        "[ $restart = 1 ] && record done && exit 0; record running; kill -7 $$",
        1,
        ["REQUEUED", "COMPLETED"],
    ),
    "no_progress": ("record failed; exit 78", 1, ["FAILED"]),
    "locked_by_another_job": ("id=7 record wants_requeue; exit 3", 1, ["FAILED"]),
    "locked_and_the_others_told_to_stop": (
        """trap 'exit 75' TERM; [ $SLURM_PROCID = 0 ] && { id=7 record running; cancel; exit 3; }
        while true; do sleep 0.1; done""",
        2,
        ["FAILED"],
    ),
    "out_of_memory": ("record running; exit 125", 1, ["FAILED"]),
    "finished_although_a_process_died_later": ("record done; exit 1", 1, ["COMPLETED"]),
}


@pytest.fixture(scope="module")
def limited(cluster_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    """A job that runs into its time limit of one minute twice. Submitted early because it takes long."""
    site = make_site(cluster_folder, tmp_path_factory.mktemp("limited"))
    body = """[ $restart = 2 ] && record done && exit 0
        trap 'record wants_requeue; exit 75' USR2; record running; while true; do sleep 0.2; done"""
    return StandIn(site, site.home, "limited", body, time="00:01:00")


@pytest.mark.usefixtures("limited")
def test_decision_for_every_way_in_which_processes_can_end(site: Site) -> None:
    jobs = {name: StandIn(site, site.home, name, body, tasks) for name, (body, tasks, _) in CASES.items()}
    for job in jobs.values():
        site.ended(job.job)
    found = {name: site.accounting(job.job) for name, job in jobs.items()}
    assert found == {name: states for name, (_, _, states) in CASES.items()}
    assert "killed by signal 9, start 6 in a row without progress: not requeued" in jobs["killed_again_and_again"].log()
    assert "asked for the default of the cluster): not requeued. Ask for more (memory_gb" in jobs["out_of_memory"].log()
    assert "/dev/shm" in jobs["bus_error"].log()
    assert "lost another process, a connection or a GPU" in jobs["other_rank_lost"].log()
    assert "could not be started (code 127): not requeued" in jobs["program_that_is_missing"].log()
    assert "and no process recorded an error, start 6 in a row" in jobs["end_without_a_record"].log()


def test_state_of_an_earlier_start_is_ignored(site: Site) -> None:
    body = "[ $restart = 0 ] && record wants_requeue && exit 75; exit 2"
    job = StandIn(site, site.home, "stale", body)
    site.ended(job.job)
    assert site.accounting(job.job) == ["REQUEUED", "FAILED"]


def test_job_without_scontrol_prints_how_to_continue(site: Site) -> None:
    (site.home / "bin").mkdir()
    for program in ("date", "awk", "sort", "srun", "bash", "sleep", "rm"):
        (site.home / "bin" / program).symlink_to(site.call("which", program).stdout.strip())
    job = StandIn(site, site.home, "bare", "record wants_requeue; exit 75", setup=(f"export PATH={site.home}/bin",))
    site.ended(job.job)
    assert site.accounting(job.job) == ["FAILED"]
    assert f"Continue with: trex retry {job.run.root}" in job.log()
    assert "wants_requeue" in job.state.read_text()


def test_setup_lines_cannot_disable_requeueing(site: Site) -> None:
    body = "[ $restart = 1 ] && record done && exit 0; record wants_requeue; exit 75"
    job = StandIn(site, site.home, "strict", body, setup=("set -eu",))
    site.ended(job.job)
    assert site.accounting(job.job) == ["REQUEUED", "COMPLETED"]


@pytest.mark.parametrize("signal", ["TERM", None])
def test_cancelled_job_is_not_requeued_even_if_it_requests_it(site: Site, signal: str | None) -> None:
    body = "trap 'record wants_requeue; exit 75' TERM; record running; echo up; while true; do sleep 0.1; done"
    job = StandIn(site, site.home, f"cancelled_{signal}", body)
    wait_for(job.state.exists)
    site.call("scancel", *(["--full"] if signal else []), job.job)
    site.ended(job.job)
    assert site.accounting(job.job) == ["CANCELLED"]


def test_job_that_is_preempted_more_often_than_slurm_itself_requeues_a_job_is_never_held(site: Site) -> None:
    body = """[ $restart -ge 5 ] && record done && exit 0
        trap 'record wants_requeue; exit 75' TERM; record running; while true; do sleep 0.1; done"""
    options = ("--partition", "gpu", "--gres", "gpu:1")
    job = StandIn(site, site.home, "often", body, options=options)
    for restart in range(5):
        running = f"{job.job} {restart}\nrunning 1\n"
        wait_for(lambda text=running: job.state.exists() and job.state.read_text() == text)
        site.urgent(site.node_of(job.job))
    site.ended(job.job)
    # After `scontrol requeue` in the grace time, a newer Slurm starts the job once more at its next end.
    newer = ["PREEMPTED"] * 3 + ["REQUEUED"] * 2 + ["PREEMPTED", "COMPLETED"]
    expected = newer if site.requeues_preempted else ["REQUEUED"] * 5 + ["COMPLETED"]
    assert site.accounting(job.job, starts=len(expected)) == expected


def test_time_limit_is_reached_again_and_again(limited: StandIn) -> None:
    limited.site.ended(limited.job)
    assert limited.site.accounting(limited.job) == ["REQUEUED", "REQUEUED", "COMPLETED"]
