"""What `trex status` says of jobs that failed, disappeared, run elsewhere or cannot be asked about, and of progress."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import main
from jobs.commands.status import as_text, collect
from jobs.plan.runs import open_config, save_config
from jobs.run_status import RunStatus, StageStatus
from tests.jobs.conftest import FakeSlurm, note_submission, queued, squeue_line
from trex.files import write_text
from trex.records.events import AttemptEnded, AttemptStarted
from trex.records.job_state import JobState, State
from trex.records.manifest import MANIFEST, STATE, Manifest
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir
from trex.records.submission import Submission


@pytest.fixture
def run(fake_slurm: FakeSlurm) -> RunDir:
    """A run of 4 epochs with batches of 10 images."""
    Path("recipe.yaml").write_text("name: mine\ntrain: {epochs: 4, batch_size: 10}\noptimizer: {warmup_epochs: 0}\n")
    run, config = open_config("recipe.yaml", ["extract.datasets=[digits]"])
    save_config(run, config)
    return run


def left(run: RunDir, state: State, job: str = "7", code: int | None = None, key: str = "train") -> None:
    """What the last start of a job left in its state file."""
    JobState(state, code, "said why", None, job, 0, "nothing", 1, 0.0).save(run, key)


def training(run: RunDir) -> StageStatus:
    return status(run).stages[0]


def status(run: RunDir) -> RunStatus:
    (found,) = collect([run.name])
    return found


def shown(found: StageStatus) -> tuple[str, str]:
    return found.state, found.why


def submitted(run: RunDir, fake_slurm: FakeSlurm, *accounting: str) -> None:
    """The training was submitted as job 7, which Slurm does not hold any more."""
    note_submission(run, "a", train="7")
    fake_slurm.says("squeue")
    fake_slurm.says("sacct", *accounting)


def test_job_that_left_the_queue_without_a_record_is_gone(run: RunDir, fake_slurm: FakeSlurm) -> None:
    submitted(run, fake_slurm)
    found = status(run)
    assert found.stages[0].state == "gone"
    assert found.advice == "trex retry mine"
    assert "trex retry mine" in as_text([found])


@pytest.mark.parametrize("job", [None, "6"])
def test_end_that_accounting_knows_is_named(run: RunDir, fake_slurm: FakeSlurm, job: str | None) -> None:
    if job is not None:
        note_submission(run, "z", train=job)
        left(run, State.RUNNING, job)  # of an earlier job, which says nothing of this one
    submitted(run, fake_slurm, "7|NODE_FAIL|10", "7|CANCELLED by 0|20")
    state, why = shown(training(run))
    assert (state, "CANCELLED" in why, "before it started" in why) == ("gone", True, True)


def test_job_that_failed_is_shown_with_its_reason(run: RunDir, fake_slurm: FakeSlurm) -> None:
    submitted(run, fake_slurm, "7|FAILED|10")
    left(run, State.FAILED, code=2)
    assert shown(training(run)) == ("failed", "said why")
    assert "FAILED" in as_text([status(run)])


def test_job_that_saved_and_was_not_requeued_is_gone_with_its_reason(run: RunDir, fake_slurm: FakeSlurm) -> None:
    submitted(run, fake_slurm, "7|TIMEOUT|10")
    left(run, State.WANTS_REQUEUE, code=75)
    state, why = shown(training(run))
    assert (state, "TIMEOUT" in why, "said why" in why) == ("gone", True, True)


def test_job_that_was_killed_while_it_ran_is_gone(run: RunDir, fake_slurm: FakeSlurm) -> None:
    submitted(run, fake_slurm, "7|OUT_OF_MEMORY|10")
    left(run, State.RUNNING)
    state, why = shown(training(run))
    assert (state, "OUT_OF_MEMORY" in why, "began" in why) == ("gone", True, False)


def test_queue_that_does_not_answer_leaves_open_whether_a_job_waits(
    run: RunDir, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    note_submission(run, "a", train="7")
    found = training(run)
    assert (found.state, found.parts[0].job, "Slurm" in found.why) == ("waiting", "7", True)
    assert "Slurm" in capsys.readouterr().err


def test_waiting_job_is_shown_with_the_reason_of_the_queue(run: RunDir, fake_slurm: FakeSlurm) -> None:
    submitted(run, fake_slurm)
    fake_slurm.says("squeue", squeue_line("7", "PENDING", "Priority", "N/A", "a", "", "0:00", "1:00", ""))
    assert shown(training(run)) == ("waiting", "Priority")
    assert "job 7, Priority" in as_text([status(run)])


@pytest.mark.parametrize(
    ("fields", "state", "words"),
    [
        (("PENDING", "JobHeldUser", "N/A"), "on hold", "scontrol release 7"),
        (("PENDING", "launch failed requeued held", "N/A"), "on hold", "scontrol release 7"),
        (("PENDING", "DependencyNeverSatisfied", "N/A"), "never starts", "scancel 7"),
        (("SUSPENDED", "None", "N/A"), "suspended", "scontrol resume 7"),
        (("COMPLETING", "None", "N/A"), "ending", "on n1"),
        (("RUNNING", "None", "2026-11-30T03:41:57"), "preempted", "it saves"),
        (("CONFIGURING", "None", "N/A"), "running", "on n1"),
    ],
)
def test_state_of_a_job_in_the_queue_is_shown_with_what_can_be_done(
    run: RunDir, fake_slurm: FakeSlurm, fields: tuple[str, str, str], state: str, words: str
) -> None:
    submitted(run, fake_slurm)
    fake_slurm.says("squeue", squeue_line("7", *fields, "a", "", "3:20", "5:40", "n1"))
    found, why = shown(training(run))
    assert (found, words in why) == (state, True)
    assert state in as_text([status(run)])


def test_job_with_another_comment_and_the_same_script_is_ours(run: RunDir, fake_slurm: FakeSlurm) -> None:
    """Users and sites edit comments."""
    one = Submission(0.0, "slurm", "train", {"train": "7"}, "", "a", script="/a.sh", code="", dependency="")
    one.append(run.submissions)
    fake_slurm.says("squeue", squeue_line("7", "RUNNING", "None", "N/A", "mine", "/a.sh", "0:01", "1:00", "n1"))
    assert training(run).state == "running"


def test_job_of_another_cluster_is_asked_about_there(run: RunDir, fake_slurm: FakeSlurm) -> None:
    for job, cluster in (("7", "big"), ("8", "here")):
        one = Submission(0.0, "slurm", "train", {"train": job}, cluster, "a", script="", code="", dependency="")
        one.append(run.submissions)
    fake_slurm.says("scontrol", "ClusterName             = here")
    path = fake_slurm.folder / "squeue"
    path.write_text(
        f'#!/bin/sh\necho "$SLURM_CLUSTERS:" >> {path}.asked\n[ -n "$SLURM_CLUSTERS" ] && exec cat {path}.big\n'
    )
    path.chmod(0o755)
    (fake_slurm.folder / "cat").symlink_to("/bin/cat")
    (fake_slurm.folder / "squeue.big").write_text(queued("7", "RUNNING", "a"))
    assert training(run).state == "running"
    assert sorted(fake_slurm.asked("squeue")) == [":", "big:"]


def test_every_reason_why_parts_do_not_go_on_is_shown(run: RunDir, fake_slurm: FakeSlurm) -> None:
    (run.root / "config.yaml").write_text(
        run.config.read_text().replace("datasets: [digits]", "datasets: [dtd, pets, cars]")
    )
    assert "cars" in run.config.read_text()
    note_submission(run, "a", extract_dtd="7_0", extract_pets="7_1", extract_cars="7_2")
    fake_slurm.says("squeue")
    fake_slurm.says("sacct")
    for number, (key, why) in enumerate(
        (("dtd", "no such folder"), ("pets", "broken image"), ("cars", "broken image"))
    ):
        JobState(State.FAILED, 2, why, None, f"7_{number}", 0, "", 1, 0.0).save(run, f"extract-{key}")
    text = as_text([status(run)])
    assert "\n    FAILED: extract-dtd (job 7_0): no such folder" in text
    assert "\n    FAILED: extract-pets (job 7_1), extract-cars (job 7_2): broken image" in text


def test_command_that_continues_works_where_it_is_printed(
    run: RunDir, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    submitted(run, fake_slurm)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (found,) = collect([str(run.root)])
    assert found.advice == "trex retry mine"
    fake_slurm.says("scontrol")
    write_text(run.cluster, "kind: slurm\n")
    assert main([*found.advice.split()[1:], "--dry-run"]) == 0
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/none")
    (found,) = collect([str(run.root)])
    assert found.advice == f"trex retry {run.root}"


@pytest.mark.parametrize("program", ["squeue", "sacct"])
def test_status_says_within_ten_seconds_what_is_not_known(
    run: RunDir, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str], program: str
) -> None:
    submitted(run, fake_slurm)
    (fake_slurm.folder / "sleep").symlink_to("/bin/sleep")
    (fake_slurm.folder / program).write_text("#!/bin/sh\nexec sleep 60\n")
    began = time.monotonic()
    found = training(run)
    assert time.monotonic() - began < 12
    said = capsys.readouterr().err
    if program == "squeue":
        assert (found.state, "Slurm does not answer" in said) == ("waiting", True)
    else:
        assert (found.state, "sacct does not answer" in said) == ("gone", True)


def test_running_job_is_shown_with_its_nodes_and_times(run: RunDir, fake_slurm: FakeSlurm) -> None:
    submitted(run, fake_slurm)
    fake_slurm.says("squeue", squeue_line("7", "RUNNING", "None", "N/A", "a", "", "3:20", "5:40", "n[1-2]"))
    state, why = shown(training(run))
    assert (state, [word in why for word in ("n[1-2]", "3:20", "5:40")]) == ("running", [True] * 3)


def test_finished_training_whose_job_waits_again_is_done(run: RunDir, fake_slurm: FakeSlurm) -> None:
    """A requeued job ends at once when it finds everything done."""
    submitted(run, fake_slurm)
    folder = run.checkpoints / "epoch-0004-step-00000000"
    write_text(folder / STATE, "state")
    Manifest(8, 5, "0" * 64, milestone=False, finished=True).write(folder / MANIFEST)
    fake_slurm.says("squeue", queued("7", "PENDING", "a"))
    assert training(run).state == "done"
    fake_slurm.says("squeue", queued("7", "RUNNING", "a"))
    assert training(run).state == "running"


def test_job_of_another_comment_is_not_ours(run: RunDir, fake_slurm: FakeSlurm) -> None:
    """Slurm gives an id again after its counter has come around."""
    submitted(run, fake_slurm)
    fake_slurm.says("squeue", queued("7", "RUNNING", "another run's"))
    assert training(run).state == "gone"


@pytest.mark.parametrize(
    ("recorded", "locked", "expected"),
    [
        (State.RUNNING, True, "running"),
        (State.RUNNING, False, "gone"),
        (State.FAILED, False, "failed"),
        (State.WANTS_REQUEUE, False, "gone"),
    ],
)
def test_job_of_this_machine_is_known_from_its_state_and_lock(
    run: RunDir, recorded: State, locked: bool, expected: str
) -> None:
    left(run, recorded, "local-1", code=None if recorded == State.RUNNING else 1)
    if locked:
        Path(f"{run.lock('train')}.1").write_text("")
    found = training(run)
    assert (found.state, found.parts[0].job) == (expected, "local-1")


def test_stage_shows_the_most_pressing_of_its_jobs(run: RunDir, fake_slurm: FakeSlurm) -> None:
    write_text(run.config, run.config.read_text().replace("[digits]", "[digits, digits_seen]"))
    note_submission(run, "a", extract_digits="7_0", extract_digits_seen="7_1")
    fake_slurm.says("squeue", queued("7_1", "RUNNING", "a"))
    fake_slurm.says("sacct", "7_0|FAILED|10")
    left(run, State.FAILED, "7_0", code=1, key="extract-digits")
    extract = status(run).stages[1]
    assert (extract.stage, extract.state, extract.done) == ("extract", "failed", 0)
    assert [part.state for part in extract.parts] == ["failed", "running"]
    assert "0/2 done, job 7_0, said why" in as_text([status(run)])


def test_progress_speed_and_time_left_are_those_of_the_last_line(run: RunDir, fake_slurm: FakeSlurm) -> None:
    submitted(run, fake_slurm)
    fake_slurm.says("squeue", queued("7", "RUNNING", "a"))
    for step, speed in ((2, 5.0), (5, 20.0)):
        MetricsLine("train", step, step / 10, {"images_per_second": speed}, 0.0).append(run.metrics)
    MetricsLine("validation", 5, 0.5, {"top1": 50.0}, 0.0).append(run.metrics)
    found = status(run)
    assert (found.step, found.steps, found.epoch, found.images_per_second) == (5, 40, 0.5, 20.0)
    assert found.seconds_left == pytest.approx(35 * 10 / 20)
    assert found.kept_seconds == pytest.approx(2 * 10 / 5 + 3 * 10 / 20)
    line = as_text([found]).splitlines()[1]
    assert [text in line for text in ("epoch 0.5/4", "step 5/40", "20 images/s", "finishes in 0:00:18")] == [True] * 4


def test_speed_and_time_left_are_not_told_of_a_run_that_does_not_run(run: RunDir) -> None:
    MetricsLine("train", 5, 0.5, {"images_per_second": 20.0}, 0.0).append(run.metrics)
    text = as_text([status(run)])
    assert "step 5/40" in text
    assert "images/s" not in text


def test_step_is_that_of_the_newest_checkpoint_where_it_is_ahead_of_the_metrics(run: RunDir) -> None:
    MetricsLine("train", 5, 0.5, {}, 0.0).append(run.metrics)
    folder = run.checkpoints / "epoch-0000-step-00000007"
    write_text(folder / STATE, "state")
    Manifest(7, 5, "0" * 64, milestone=False, finished=False).write(folder / MANIFEST)
    assert status(run).step == 7


@pytest.mark.parametrize(
    ("signal", "code", "said"),
    [("SIGTERM", 75, "preempted"), ("SIGUSR2", 75, "time limit"), ("SIGINT", 75, "Ctrl-C"), (None, 1, "why it ended")],
)
def test_restart_is_counted_and_told_with_what_ended_the_start_before(
    run: RunDir, signal: str | None, code: int, said: str
) -> None:
    for restart in range(2):
        AttemptStarted(0.0, "train", ("train",), "7", restart, "nothing", nodes=1, node="n1", world=1).append(
            run.events
        )
        AttemptEnded(9.0, "train", ("train",), "7", restart, code, "why it ended; more", signal, "nothing", 5.0).append(
            run.events
        )
    found = status(run)
    assert (found.restarts, len(found.stops), found.allocated_seconds) == (1, 1, 10.0)
    assert said in found.stops[0]
    assert said in as_text([found])


def test_attempts_of_other_stages_are_no_restarts_of_the_training(run: RunDir) -> None:
    for _ in range(3):
        AttemptStarted(0.0, "probe", ("probe-x",), "7", 0, "nothing", nodes=1, node="n1", world=1).append(run.events)
        AttemptEnded(9.0, "probe", ("probe-x",), "7", 0, 0, "finished", None, "nothing", 5.0).append(run.events)
    assert (status(run).restarts, status(run).goodput) == (0, None)


def test_time_of_the_start_that_runs_now_counts_as_allocated(run: RunDir, fake_slurm: FakeSlurm) -> None:
    submitted(run, fake_slurm)
    began = time.time() - 100
    AttemptStarted(began, "train", ("train",), "7", 0, "nothing", nodes=1, node="n1", world=1).append(run.events)
    assert status(run).allocated_seconds == 0.0
    fake_slurm.says("squeue", queued("7", "RUNNING", "a"))
    assert status(run).allocated_seconds == pytest.approx(100, abs=30)


def test_submissions_of_a_back_end_that_is_not_installed_are_not_asked_about(run: RunDir) -> None:
    one = Submission(0.0, "elsewhere", "train", {"train": "7"}, "", "a", script="", code="", dependency="")
    one.append(run.submissions)
    assert training(run).state == "gone"


def as_json(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_json_has_every_stage_with_its_jobs(
    run: RunDir, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    submitted(run, fake_slurm, "7|FAILED|10")
    assert main(["status", "--json"]) == 0
    (found,) = as_json(capsys)
    assert list(found["stages"]) == ["train", "extract", "probe", "report"]
    assert found["stages"]["train"]["parts"][0]["job"] == "7"
    assert (found["name"], found["path"], found["advice"]) == ("mine", str(run.root), "trex retry mine")
    assert found["stages"]["extract"] == {
        "state": "open", "done": 0, "of": 1,
        "parts": [{"key": "extract-digits", "state": "open", "job": None, "why": ""}],
    }  # fmt: skip


def test_run_whose_config_is_damaged_is_left_out_of_all_and_an_error_by_name(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(Path("runs/hurt/config.yaml"), "name: hurt\nnonsense: 1\n")
    assert main(["status", "--json"]) == 0
    shown = capsys.readouterr()
    assert [found["name"] for found in json.loads(shown.out)] == ["mine"]
    assert "runs/hurt" in shown.err
    assert "config.yaml:2" in shown.err
    assert main(["status", "hurt"]) == 2
    assert "config.yaml:2" in capsys.readouterr().err


def test_folder_without_runs_is_no_error(fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    assert "no runs" in capsys.readouterr().out
    assert main(["status", "--json"]) == 0
    assert as_json(capsys) == []


def test_recipe_that_was_never_run_has_no_status(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    write_text(Path("new.yaml"), "name: new\n")
    assert main(["status", "new.yaml"]) == 2
    assert "runs/new" in capsys.readouterr().err
