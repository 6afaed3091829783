"""The state of a job records how it ended and how many starts made no progress."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.backend import SITE
from jobs.plan.spec import TaskSpec
from jobs.worker.attempts import Attempt, Outcome, record_failure
from jobs.worker.place import Task
from tests.disks import small_disk
from trex.errors import ExitCode, NoProgress
from trex.records.events import AttemptEnded, read_events
from trex.records.job_state import JobState, State
from trex.records.run_dir import RunDir

TASK = Task("slurm", "7", 0, world=1, local_rank=0, node="n1", node_count=1, restart=0, cpus=1)


@pytest.fixture
def run(tmp_path) -> RunDir:
    return RunDir(tmp_path / "run")


def start(run: RunDir, restart: int, code: ExitCode | None, saves: str | None = None, job: str = "7") -> JobState:
    """Simulate one start of the training that may save a checkpoint, and ends with `code` or is killed (None)."""
    attempt = Attempt(run, TaskSpec("train", str(run.root)), replace(TASK, job_id=job, restart=restart), SITE)
    with contextlib.ExitStack() as held:
        try:
            attempt.start(held)
            if saves:
                (run.checkpoints / saves).mkdir(parents=True)
            if code is not None:
                attempt.end(Outcome(code, "said"), "SIGTERM")
        except NoProgress as error:
            attempt.end(Outcome(error.exit_code, str(error)), None)
    return JobState.read(run.state("train"))


def test_end_of_a_start_is_recorded_in_the_state_and_in_the_history(run: RunDir) -> None:
    state = start(run, 0, ExitCode.INTERRUPTED, saves="epoch-0001-step-00000000")
    assert (state.state, state.code, state.reason, state.signal) == (State.WANTS_REQUEUE, 75, "said", "SIGTERM")
    _, event = read_events(run.events).strict()
    assert isinstance(event, AttemptEnded)
    for field in ("code", "reason", "signal", "job", "restart", "mark", "time"):
        assert getattr(event, field) == getattr(state, field)
    assert state.mark == "epoch-0001-step-00000000"


@pytest.mark.parametrize("code", [ExitCode.INTERRUPTED, None])
def test_sixth_start_in_a_row_without_progress_ends_with_no_progress(run: RunDir, code: ExitCode | None) -> None:
    for restart in range(5):
        assert start(run, restart, code).starts_without_progress == restart + 1
    state = start(run, 5, code)
    assert (state.state, state.code) == (State.FAILED, ExitCode.NO_PROGRESS)
    assert "started 5 times without progress (on disk: nothing)" in state.reason


def test_restarts_that_died_before_they_recorded_anything_are_counted(run: RunDir) -> None:
    start(run, 0, None)
    assert start(run, 4, None).starts_without_progress == 5
    assert start(run, 5, None).code == ExitCode.NO_PROGRESS


def test_start_that_saved_something_resets_the_count(run: RunDir) -> None:
    for restart in range(4):
        start(run, restart, ExitCode.INTERRUPTED)
    assert start(run, 4, ExitCode.INTERRUPTED, saves="epoch-0000-step-00000001").starts_without_progress == 0
    assert start(run, 5, None).starts_without_progress == 1


def test_killed_start_that_saved_something_resets_the_count(run: RunDir) -> None:
    for restart in range(4):
        start(run, restart, None)
    start(run, 4, None, saves="epoch-0000-step-00000001")
    assert start(run, 5, None).starts_without_progress == 1


def test_another_job_resets_the_count(run: RunDir) -> None:
    for restart in range(5):
        start(run, restart, ExitCode.INTERRUPTED)
    assert start(run, 0, ExitCode.INTERRUPTED, job="8").starts_without_progress == 1


def test_damaged_state_is_overwritten(run: RunDir) -> None:
    start(run, 0, ExitCode.INTERRUPTED)
    run.state("train").write_text("{")
    assert start(run, 1, ExitCode.INTERRUPTED).state == State.WANTS_REQUEUE


@pytest.mark.parametrize("fault", ["full", "no inodes", "read-only"])
def test_end_that_cannot_be_recorded_is_logged_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    with small_disk(tmp_path / "disk", "size=64k,nr_inodes=40") as disk, contextlib.ExitStack() as held:
        run = RunDir(disk.folder / "run")
        spec = TaskSpec("train", str(run.root))
        attempt = Attempt(run, spec, TASK, SITE)
        attempt.start(held)
        {"full": disk.fill, "no inodes": disk.use_up_inodes, "read-only": disk.make_read_only}[fault]()
        with caplog.at_level(logging.WARNING):
            attempt.end(Outcome(ExitCode.UNWRITABLE, "said" * 1000), "SIGTERM")
            record_failure(run, spec, replace(TASK, rank=1), Outcome(ExitCode.FAULT, "said" * 1000))
        words = {"full": "disk full", "no inodes": "no inodes left", "read-only": "read-only file system"}[fault]
        assert caplog.text.count(f"not recorded: {words}: cannot write {run.jobs}/train.state.") == 2
        assert JobState.read(run.state("train")).state == State.RUNNING
        if fault == "read-only":
            disk.make_writable()
        disk.empty()
        assert [event.KIND for event in read_events(run.events).strict()][:1] == ["attempt_started"]


def test_shell_gets_the_state_if_only_the_other_file_cannot_be_written(run: RunDir) -> None:
    run.state("train").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        JobState(State.FAILED, 74, "", None, "7", 0, "nothing", 1, 0.0).save(run, "train")
    assert run.state_for_shell("train").read_text() == "7 0\nfailed 1\n"


def test_history_that_cannot_be_written_goes_to_the_log_and_the_job_starts(
    run: RunDir, caplog: pytest.LogCaptureFixture
) -> None:
    run.events.mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        assert start(run, 0, ExitCode.INTERRUPTED).state == State.WANTS_REQUEUE
    assert caplog.text.count("The history of the run lacks this event: {") == 2
    assert '"kind": "attempt_ended"' in caplog.text


def test_start_that_cannot_be_recorded_fails_before_the_work(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=64k") as disk, contextlib.ExitStack() as held:
        run = RunDir(disk.folder / "run")
        run.jobs.mkdir(parents=True)
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            Attempt(run, TaskSpec("train", str(run.root)), TASK, SITE).start(held)
