"""What the batch script decides after srun, with stand-ins for Slurm's programs. tests/slurm uses a real Slurm."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from jobs.backend import load_cluster
from jobs.plan.spec import TaskSpec
from jobs.slurm.submit import Submitter
from jobs.slurm.work import Work
from jobs.worker.attempts import MAX_STARTS_WITHOUT_PROGRESS
from tests.disks import small_disk
from trex.records.job_state import JobState, State
from trex.records.rendezvous import Canceled
from trex.records.run_dir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def decide(run: RunDir, rc: int, restart: int = 0, lost: str = "") -> tuple[str, int]:
    """Run the lines after srun in job 7, whose processes ended with `rc`. Returns their output and exit code."""
    programs = run.root.parent / "programs"
    programs.mkdir(exist_ok=True)
    for name, text in (("scontrol", "[ $1 != requeue ] || echo requeued $2"), ("sinfo", f"echo '{lost}'")):
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    lines = Submitter(run, load_cluster("sandbox"))._after(Work((TaskSpec("train", str(run.root)),)))
    script = "\n".join([f"(exit {rc})", *lines])
    slurm = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restart), "SLURM_JOB_NODELIST": "n1"}
    variables = {**os.environ, **slurm, "PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=variables, capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    return done.stdout, done.returncode


def record(run: RunDir, state: State, restart: int = 0, starts: int = 1, job: str = "7") -> None:
    JobState(state, None, "", None, job, restart, "nothing", starts, 0.0).save(run, "train")


@pytest.mark.parametrize(
    ("state", "rc", "said", "code"),
    [
        (State.DONE, 0, "", 0),
        (State.DONE, 1, "finished; afterwards a process ended with code 1", 0),
        (State.WANTS_REQUEUE, 75, "requeue: saved, not finished yet", 75),
        (State.WANTS_REQUEUE, 137, "requeue: saved, not finished yet", 137),
        (State.FAILED, 2, "failed with code 2: not requeued", 2),
        (State.FAILED, 137, "failed with code 137: not requeued", 137),
        (State.RUNNING, 137, "requeue: killed by signal 9", 137),
        (State.RUNNING, 135, "requeue: killed by signal 7 (SIGBUS", 135),
        (State.RUNNING, 125, "out of memory (asked for the default of the cluster): not requeued", 125),
        (State.RUNNING, 76, "requeue: lost another process, a connection or a GPU", 76),
        (State.FAILED, 76, "failed with code 76: not requeued", 76),
        (State.RUNNING, 1, "requeue: ended with code 1, and no process recorded an error", 1),
        (State.RUNNING, 127, "requeue: ended with code 127", 127),
        (State.RUNNING, 2, "failed with code 2: not requeued", 2),
        (State.FAILED, 74, "failed with code 74: not requeued, because files could not be written", 74),
        (State.RUNNING, 74, "failed with code 74: not requeued, because files could not be written", 74),
        (None, 74, "failed with code 74: not requeued, because files could not be written", 74),
        (State.RUNNING, 75, "requeue: saved, but this could not be recorded", 75),
        (State.RUNNING, 0, "", 0),
        (None, 75, "requeue: stopped before the work started", 75),
        (None, 137, "requeue: killed by signal 9", 137),
        (None, 1, "requeue: ended with code 1, and no process recorded an error", 1),
        (None, 127, "the program could not be started (code 127): not requeued", 127),
        (None, 3, "failed with code 3: not requeued", 3),
    ],
)
def test_decision_depends_on_the_recorded_state_then_on_the_exit_code(
    run: RunDir, state: State | None, rc: int, said: str, code: int
) -> None:
    if state is not None:
        record(run, state)
    output, found = decide(run, rc)
    assert said in output
    assert ("requeued 7" in output) == said.startswith("requeue:")
    assert found == code


@pytest.mark.parametrize(("rc", "end"), [(137, "killed by signal 9"), (76, "lost another process")])
@pytest.mark.parametrize("fault", ["full", "no inodes", "read-only"])
def test_job_whose_ranks_were_killed_because_the_disk_is_full_is_not_requeued(
    tmp_path: Path, fault: str, rc: int, end: str
) -> None:
    """The rank that found out ends with code 74 and cannot record it; srun's exit code may be that of a killed rank."""
    with small_disk(tmp_path / "run", "size=64k,nr_inodes=40") as disk:
        run = RunDir(disk.folder)
        record(run, State.RUNNING)
        assert decide(run, 137)[0].count("requeued 7") == 1
        before = sorted(run.jobs.iterdir())
        {"full": disk.fill, "no inodes": disk.use_up_inodes, "read-only": disk.make_read_only}[fault]()
        said, code = decide(run, rc)
        words = "Read-only file system" if fault == "read-only" else "No space left on device"
        assert end in said
        assert f", and the run folder takes no more data ({words}): not requeued" in said
        assert ("requeued 7" in said, code) == (False, rc)
        assert sorted(run.jobs.iterdir()) == before


def test_job_on_a_failed_node_is_requeued_even_if_it_recorded_a_failure(run: RunDir) -> None:
    record(run, State.FAILED)
    assert "requeue: node failure: n1" in decide(run, 1, lost="n1 down*")[0]


@pytest.mark.parametrize(("job", "restart"), [("8", 1), ("7", 0)])
def test_state_of_another_job_or_start_is_ignored(run: RunDir, job: str, restart: int) -> None:
    record(run, State.WANTS_REQUEUE, restart=restart, job=job)
    assert "failed with code 2: not requeued" in decide(run, 2, restart=1)[0]


def test_job_that_cancelled_its_rendezvous_without_a_state_is_not_requeued(run: RunDir) -> None:
    record(run, State.RUNNING, job="8")
    Canceled("locked").write(run.canceled("train", "7", 0))
    assert "did not start: not requeued" in decide(run, 75)[0]
    assert "requeue: stopped" in decide(run, 75, restart=1)[0], "the rendezvous of another start was cancelled"


def test_killed_job_is_requeued_up_to_the_limit(run: RunDir) -> None:
    limit = MAX_STARTS_WITHOUT_PROGRESS
    record(run, State.RUNNING, restart=limit - 1, starts=limit)
    assert "requeue: killed" in decide(run, 137, restart=limit - 1)[0]
    assert f"start {limit + 1} in a row without progress: not requeued" in decide(run, 137, restart=limit)[0]


def test_starts_killed_before_they_record_anything_are_counted_by_the_restarts(run: RunDir) -> None:
    limit = MAX_STARTS_WITHOUT_PROGRESS
    assert "requeue: killed" in decide(run, 137, restart=limit - 1)[0]
    assert "not requeued" in decide(run, 137, restart=limit)[0]
    record(run, State.WANTS_REQUEUE, restart=limit, starts=0)
    assert "requeue: killed" in decide(run, 137, restart=limit + 1)[0], "it had saved something new"


@pytest.mark.parametrize("text", ["", "7\n", "7 0\nfailed\n", "7 x\nfailed 1\n", "7 0\nfailed a[$(touch bad)]\n", "\0"])
def test_damaged_state_is_ignored(run: RunDir, text: str) -> None:
    run.jobs.mkdir(parents=True)
    run.state_for_shell("train").write_text(text)
    assert "requeue: killed by signal 9" in decide(run, 137)[0]
