"""The work at milestones: what is missing, what a training starts by itself, and what it costs if that fails."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import pytest

from jobs import milestones as program
from jobs import programs
from jobs.backend import SITE
from jobs.cli import main
from jobs.plan.milestones import delete_features, missing
from jobs.plan.runs import save_config
from jobs.plan.spec import Item
from jobs.worker import milestones as worker
from jobs.worker.milestones import MilestoneJobs
from jobs.worker.place import Site, Task
from tests.feature_files import relabel
from tests.jobs.conftest import FakeSlurm, note_submission
from trex.config import Config, load
from trex.config.loader import ConfigError
from trex.distributed import Ranks
from trex.errors import UserError
from trex.features.extract import extract
from trex.features.origin import describe_transform
from trex.files import sha256
from trex.interruption import StopRequest
from trex.probing.probe import probe
from trex.records.job_state import JobState, State
from trex.records.manifest import MANIFEST, Manifest, milestones
from trex.records.run_dir import RunDir

TEXT = """
name: curve
data: {dataset: digits_seen, workers: 0}
model: {encoder: resnet18}
train: {epochs: 20}
checkpoint: {milestone_epochs: 5}
extract: {datasets: [digits, digits_unseen, digits_seen], resize: 8, crop: 8}
probe: {seeds: 2, at: milestones, at_datasets: [digits_unseen, digits_seen]}
"""
CLUSTER = "kind: slurm\nprobe: {max_parallel: 4}\n"


def configured(home: Path, *overrides: str) -> tuple[RunDir, Config]:
    path = home / "curve.yaml"
    path.write_text(TEXT)
    config = load(path, Config, [f"runs={home}/runs", *overrides])
    return RunDir.of(config), config


def checkpoint(run: RunDir, epoch: int, step: int = 0, content: str = "", **about: bool) -> str:
    """Write a checkpoint that matches its manifest. Returns the weights label of features made from it."""
    folder = run.checkpoints / f"epoch-{epoch:04d}-step-{step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint.pt").write_text(content or folder.name)
    digest = sha256(folder / "checkpoint.pt")
    kinds = {"milestone": True, "finished": False, **about}
    Manifest(7, (folder / "checkpoint.pt").stat().st_size, digest, **kinds).write(folder / MANIFEST)
    return f"{folder.name}, SHA-256 {digest[:16]}"


def make_features(run: RunDir, home: Path, dataset: str, weights: str) -> None:
    """Write features of the pixels, and label them as made from `weights` by the config's encoder."""
    _, config = configured(home)
    _, pixels = configured(home, "extract.weights=pixels", "probe.at=final")
    extract(run, pixels, dataset, Ranks(), StopRequest())
    for split in ("trainval", "test"):
        relabel(run.features(dataset, split), weights=weights, transform=describe_transform(config))


def names(run: RunDir, config: Config) -> dict[str, list[str]]:
    return {stage: [item.name for item in items] for stage, items in missing(run, config).items()}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["probe.at_datasets=[]"], "'probe.at' is milestones: expected the datasets to probe in probe.at_datasets"),
        (["checkpoint.milestone_epochs=0"], "expected the epochs between them in checkpoint.milestone_epochs"),
        (["extract.weights=pixels"], "expected extract.weights trained, got pixels"),
        (["probe.at_datasets=[dtd]"], "has dtd in at_datasets: expected only datasets that are in extract.datasets"),
        (["probe.at=often"], "expected one of final, milestones"),
    ],
)
def test_settings_that_do_not_fit_together_are_mistakes_in_the_config(
    tmp_path: Path, settings: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        configured(tmp_path, *settings)


def test_milestones_are_read_from_the_checkpoints_without_the_last_epoch(tmp_path: Path) -> None:
    run, config = configured(tmp_path)
    assert names(run, config) == {}
    for epoch in (5, 10):
        checkpoint(run, epoch)
    checkpoint(run, 12, milestone=False)
    checkpoint(run, 10, step=3)
    checkpoint(run, 20, finished=True)
    checkpoint(run, 15)
    (run.checkpoints / "epoch-0015-step-00000000" / "checkpoint.pt").write_text("half")
    assert milestones(run.checkpoints) == [5, 10]
    items = [f"{name}@epoch-{epoch:04d}" for epoch in (5, 10) for name in ("digits_unseen", "digits_seen")]
    assert names(run, config) == {"extract": items, "probe": items}
    _, off = configured(tmp_path, "probe.at=final")
    assert names(run, off) == {}


def test_results_decide_what_is_done_and_must_be_of_the_checkpoint_on_disk(tmp_path: Path) -> None:
    run, config = configured(tmp_path, "probe.at_datasets=[digits_unseen]")
    label = checkpoint(run, 5)
    at = run.at(5)
    assert at.features("digits_unseen", "test").parent == run.root / "milestones/epoch-0005/features/digits_unseen"
    make_features(at, tmp_path, "digits_unseen", label)
    assert names(run, config) == {"probe": ["digits_unseen@epoch-0005"]}
    probe(at, config, "digits_unseen", range(2), StopRequest())
    assert names(run, config) == {}
    assert run.probe_results() == [], "they are not mixed with the final ones"
    delete_features(at, "digits_unseen")
    delete_features(at, "digits_unseen")
    assert names(run, config) == {}
    _, more = configured(tmp_path, "probe.at_datasets=[digits_unseen]", "probe.kinds=[exact, knn3]")
    assert names(run, more) == {"extract": ["digits_unseen@epoch-0005"], "probe": ["digits_unseen@epoch-0005"]}

    checkpoint(run, 5, content="another training")
    assert names(run, config) == {"extract": ["digits_unseen@epoch-0005"], "probe": ["digits_unseen@epoch-0005"]}
    make_features(at, tmp_path, "digits_unseen", label)
    with pytest.raises(UserError, match="weights: epoch-0005-step-00000000, SHA-256"):
        missing(run, config)


def test_training_starts_only_what_was_neither_submitted_nor_has_failed(tmp_path: Path) -> None:
    run, config = configured(tmp_path)
    save_config(run, config)
    for epoch in (5, 10):
        checkpoint(run, epoch)
    note_submission(run, "a", **{"extract_digits_unseen@epoch-0005": "7", "extract_digits_seen@epoch-0005": "8"})
    failed = JobState(State.FAILED, 2, "no such image", None, "8", 0, "nothing", 1, 0.0)
    failed.save(run, "probe-digits_unseen@epoch-0010")

    def new(kind: str) -> dict[str, list[str]]:
        return {spec.stage: [item.name for item in spec.items] for spec in program.new_work(run, config, kind)}

    assert new("slurm") == {
        "extract": ["digits_unseen@epoch-0010", "digits_seen@epoch-0010"],
        "probe": ["digits_unseen@epoch-0005", "digits_seen@epoch-0005", "digits_seen@epoch-0010"],
    }
    assert new("local")["extract"][:2] == ["digits_unseen@epoch-0005", "digits_seen@epoch-0005"]
    assert Item("digits_seen", (3,), 10).name == "digits_seen-seed3@epoch-0010"


def scripts(text: str) -> list[tuple[str, str, str]]:
    """Return the first key, the array and the dependency of each job that a dry run prints."""
    found = []
    for script in text.split("# ---- would be submitted: ")[1:]:
        options = {
            line.split("=", 1)[0]: line.split("=", 1)[1].strip("'")
            for line in script.splitlines() if line.startswith(("#SBATCH --array", "#SBATCH --dependency"))
        }  # fmt: skip
        key = script.partition("\n")[0].partition(",")[0]
        found.append((key, options.get("#SBATCH --array", ""), options.get("#SBATCH --dependency", "")))
    return found


def test_milestones_do_not_wait_for_the_training_and_the_rest_of_the_run_does(
    fake_slurm: FakeSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    run, _ = configured(tmp_path)
    checkpoint(run, 5)
    assert main(["run", "curve.yaml", "--cluster", "cluster.yaml", "--dry-run"]) == 0
    early = "extract-digits_unseen@epoch-0005"
    assert scripts(capsys.readouterr().out) == [
        ("train", "", ""),
        (early, "0-1%2", ""),
        ("extract-digits", "0-2%3", "afterok:<train>"),
        ("probe-digits_unseen@epoch-0005", "0-1%2", f"aftercorr:<{early}>"),
        ("probe-digits", "0-2%2", "aftercorr:<extract-digits>"),
        ("report", "", f"afterany:<train>:<{early}>:<extract-digits>:<probe-digits_unseen@epoch-0005>:<probe-digits>"),
    ]
    assert main(["probe", "curve.yaml", "--milestones", "--cluster", "cluster.yaml", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert [key for key, _, _ in scripts(text)] == [early, "probe-digits_unseen@epoch-0005"]
    assert f"trex_continue='trex retry {run.root}'" in text
    assert main(["probe", "curve.yaml", "probe.at=final", "--milestones", "--cluster", "cluster.yaml"]) == 2
    assert "probe.at is final" in capsys.readouterr().err


def test_retry_after_a_training_alone_adds_no_stage_that_was_not_asked_for(
    fake_slurm: FakeSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, config = configured(tmp_path)
    save_config(run, config)
    checkpoint(run, 5)
    note_submission(run, "a", train="7")
    note_submission(run, "b", **{"extract_digits_unseen@epoch-0005": "8"})
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    fake_slurm.says("squeue")
    assert main(["retry", str(run.root), "--cluster", "cluster.yaml", "--dry-run"]) == 0
    keys = [key for key, _, _ in scripts(capsys.readouterr().out)]
    assert keys == ["train", "extract-digits_unseen@epoch-0005", "probe-digits_unseen@epoch-0005"]


def test_variables_of_the_login_shell_reach_the_jobs_that_a_job_submits(
    fake_slurm: FakeSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_ACCOUNT", "biology")
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    configured(tmp_path)
    assert main(["train", "curve.yaml", "--cluster", "cluster.yaml", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "\nexport SBATCH_ACCOUNT=biology\n" in text
    assert "#SBATCH --account=biology" in text


# ---- the program that a training starts


def task(kind: str) -> Task:
    return Task(kind, "7", rank=0, world=1, local_rank=0, node="n1", node_count=1, restart=0, cpus=1)


def wait_until_done(jobs: MilestoneJobs, seconds: float = 120) -> list[bool]:
    """Ask as the training does until nothing runs; return the answers."""
    answers, deadline = [], time.monotonic() + seconds
    while jobs._process is not None:
        assert time.monotonic() < deadline
        answers.append(jobs.holds_training())
        time.sleep(0.05)
    return answers


def test_program_that_fails_costs_one_warning_with_its_reason_and_never_holds_a_training_on_a_cluster(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, config = configured(tmp_path)
    save_config(run, config)
    checkpoint(run, 5)  # there is no jobs/cluster.yaml, because nothing was submitted
    jobs = MilestoneJobs(run, task("slurm"), SITE)
    jobs.start()
    assert not any(wait_until_done(jobs))
    [warning] = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert "cluster.yaml" in warning
    assert "trex retry " in warning
    caplog.clear()
    jobs.stop()
    jobs.finish()
    assert caplog.text == ""


def replaced(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[programs.Process]:
    """Let `programs.start` start another program, and return the processes."""
    started: list[programs.Process] = []
    start = programs.start

    def other(_words: object, env: dict[str, str], log: Path) -> programs.Process:
        started.append(start(words, env, log))
        return started[-1]

    monkeypatch.setattr(programs, "start", other)
    return started


def slow_program(
    home: Path, monkeypatch: pytest.MonkeyPatch, kind: str = "slurm", site: Site = SITE
) -> tuple[MilestoneJobs, list[programs.Process]]:
    """Start the work of one milestone by a program that takes a minute; returns its process too."""
    run, _ = configured(home)
    checkpoint(run, 5)
    run.jobs.mkdir(parents=True)
    started = replaced(monkeypatch, "sleep", "60")
    jobs = MilestoneJobs(run, task(kind), site)
    jobs.start()
    return jobs, started


def test_submission_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker, "SECONDS_TO_SUBMIT", 0.3)
    jobs, started = slow_program(tmp_path, monkeypatch)
    began = time.monotonic()
    assert not any(wait_until_done(jobs))
    assert time.monotonic() - began < 20
    assert [one.returncode for one in started] == [-9]
    assert "no success within 0.3 s" in caplog.text


def test_file_system_that_fails_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, _ = configured(tmp_path)
    checkpoint(run, 5)
    jobs = MilestoneJobs(run, task("slurm"), SITE)
    jobs.start()  # there is no folder for the log
    assert "No such file" in caplog.text
    caplog.clear()

    def fails(_folder: Path) -> list[int]:
        raise OSError("Stale file handle")

    monkeypatch.setattr(worker, "milestones", fails)
    jobs.start()
    assert "Stale file handle" in caplog.text
    assert not jobs.holds_training()


def test_request_during_a_submission_is_done_after_it_and_the_end_waits_for_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = configured(tmp_path)
    jobs = MilestoneJobs(run, task("slurm"), SITE)
    started = replaced(monkeypatch, sys.executable, "-c", "import time; time.sleep(0.5)")
    jobs.start()
    assert started == [], "there is no milestone yet"
    checkpoint(run, 5)
    run.jobs.mkdir(parents=True)
    jobs.start()
    jobs.start()
    assert len(started) == 1
    jobs.finish()
    assert [one.returncode for one in started] == [0, 0]


def test_submission_that_outlasts_the_training_is_ended_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker, "SECONDS_IF_INTERRUPTED", 0.2)
    jobs, started = slow_program(tmp_path, monkeypatch)
    jobs.stop()
    assert started[0].wait(10) < 0
    assert "the training ended before they were submitted" in caplog.text


def test_training_on_this_machine_waits_and_a_stop_ends_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "SECONDS_TO_SUBMIT", 0.0)
    site = Site(SITE.owner_is_alive, SITE.addresses, lambda task: False)
    jobs, started = slow_program(tmp_path, monkeypatch, "local", site)
    time.sleep(0.2)
    assert jobs.holds_training()
    jobs.stop()
    assert [one.returncode for one in started] == [-15]
    assert not jobs.holds_training()
