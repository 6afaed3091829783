"""Jobs of this machine, from the dry run to real processes: what they are told, what they leave, how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.backend import backend, backends, kinds
from jobs.cli import main
from jobs.local.process import of_rank, this_task
from jobs.plan.cluster import Cluster
from jobs.plan.spec import Item, TaskSpec
from tests.pictures import write_noise
from tests.reporting.test_report import result
from trex.config.schema import DataConfig
from trex.datasets.pack import write_pack
from trex.datasets.registry import load_splits
from trex.errors import ExitCode
from trex.files import write_text
from trex.records.environment import Environment
from trex.records.events import AttemptEnded, AttemptStarted, read_events
from trex.records.job_state import JobState, State
from trex.records.run_dir import RunDir
from trex.records.typed import encode

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "name: mine\nextract: {weights: pixels, datasets: [digits], resize: 8, crop: 8}\nprobe: {seeds: 1}\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe and a cluster file of two processes, without GPUs and without Slurm."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    write_text(tmp_path / "recipe.yaml", RECIPE)
    write_text(tmp_path / "two.yaml", "kind: local\nextract: {tasks_per_node: 2}\n")
    return tmp_path


def files(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*"))


def process(run: RunDir, spec: TaskSpec, **variables: str) -> subprocess.CompletedProcess[str]:
    """One process of a job, started as the launcher does."""
    outside = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    words = [sys.executable, "-m", "jobs.local.process", json.dumps(encode(spec))]
    return subprocess.run(words, cwd=run.root.parent, env=outside, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("words", "count"),
    [([], "2 processes"), (["--processes", "3"], "3 processes"), (["--processes", "1"], "1 process,")],
)
def test_processes_are_as_the_cluster_file_says_or_as_asked_for(
    home: Path, words: list[str], count: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(home)
    assert main(["extract", "recipe.yaml", "--cluster", "two.yaml", "--dry-run", *words]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert ["extract of digits" in line, count in line, str(home / "runs/mine") in line] == [True] * 3
    assert files(home) == before


def test_probes_are_one_process_whatever_is_asked_for(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "recipe.yaml", "--cluster", "two.yaml", "--dry-run", "--processes", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["3 process" in line for line in lines] == [True, False, False]


def test_local_job_reads_a_copy_in_the_folder_of_the_cluster_file(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_noise(home / "data/noise", images=2, size=8)
    write_pack(load_splits("noise", DataConfig()), home / "data/noise.pack", lambda _: None)
    (home / "disk").mkdir()
    write_text(home / "staging.yaml", "kind: local\nstage: $DISK\n")
    monkeypatch.setenv("DISK", str(home / "disk"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert main(["extract", "recipe.yaml", "--cluster", "staging.yaml", "extract.datasets=[noise]"]) == 0
    assert "noise: read from a copy in $DISK on 1 node: " in capsys.readouterr().out
    assert [*(home / "disk").glob("*/*-noise.pack/*.tar")]


def test_another_run_of_that_name_is_refused_and_kept(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDir(home / "runs" / "mine")
    write_text(run.config, f"{RECIPE}train: {{epochs: 20}}\n")
    before = files(home)
    assert main(["extract", "recipe.yaml", "--cluster", "local"]) == ExitCode.RESUME_REFUSED
    said = capsys.readouterr().err
    assert ["train.epochs" in said, "20" in said, "100" in said, "name=" in said] == [True] * 4
    assert files(home) == before
    assert "epochs: 20" in run.config.read_text()


def test_report_of_a_run_without_results_runs_as_a_job_and_is_recorded(home: Path) -> None:
    run = RunDir(home / "runs" / "mine")
    write_text(run.config, RECIPE)
    result(run, "digits", 0, 0.75)
    done = process(run, TaskSpec("report", str(run.root)), TREX_JOB="local-9")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "75.0" in run.report_page.read_text()
    state = JobState.of(run, "report")
    assert state is not None
    assert (state.state, state.code, state.job) == (State.DONE, 0, "local-9")
    started, machines, ended = read_events(run.events).strict()
    assert isinstance(started, AttemptStarted)
    assert isinstance(machines, Environment)
    assert isinstance(ended, AttemptEnded)
    assert (machines.job, machines.world, machines.gpus) == ("local-9", 1, 0)
    assert (started.keys, started.world, ended.code) == (("report",), 1, 0)
    assert not list(run.jobs.glob("report.lock.*"))


def test_job_whose_config_is_damaged_ends_as_a_mistake_of_the_user(home: Path) -> None:
    run = RunDir(home / "runs" / "mine")
    write_text(run.config, "name: mine\nnonsense: 1\n")
    done = process(run, TaskSpec("report", str(run.root)))
    assert done.returncode == ExitCode.USER_ERROR
    assert ["config.yaml:2" in done.stdout, "Traceback" in done.stdout + done.stderr] == [True, False]
    state = JobState.of(run, "report")
    assert state is not None
    assert (state.state, state.code) == (State.FAILED, ExitCode.USER_ERROR)
    assert "config.yaml:2" in state.reason
    assert not list(run.jobs.glob("report.lock.*"))


def test_error_of_the_program_is_recorded_with_its_kind_and_logged_with_a_traceback(home: Path) -> None:
    run = RunDir(home / "runs" / "mine")
    write_text(run.config, RECIPE)
    run.report.mkdir()
    run.report_page.mkdir()  # cannot be replaced by a file
    done = process(run, TaskSpec("report", str(run.root)))
    assert done.returncode == ExitCode.FAULT
    assert "Traceback" in done.stdout
    state = JobState.of(run, "report")
    assert state is not None
    assert (state.state, state.code) == (State.FAILED, ExitCode.FAULT)
    assert "IsADirectoryError" in state.reason


@pytest.mark.slow
def test_probe_without_features_ends_as_a_mistake_that_names_the_file(home: Path) -> None:
    run = RunDir(home / "runs" / "mine")
    write_text(run.config, RECIPE)
    done = process(run, TaskSpec("probe", str(run.root), (Item("digits"),)))
    assert done.returncode == ExitCode.USER_ERROR
    state = JobState.of(run, "probe-digits")
    assert state is not None
    assert str(run.features("digits", "trainval")) in state.reason


def test_environment_of_a_rank_names_job_rank_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("MINE", "kept")
    made = of_rank("local-3", 1, 2, gpus=2)
    wanted = {"TREX_JOB": "local-3", "TREX_RANK": "1", "TREX_WORLD": "2", "CUDA_VISIBLE_DEVICES": "0,1", "MINE": "kept"}
    assert {key: made[key] for key in wanted} == wanted


def test_rank_reads_its_place_and_shares_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {"TREX_JOB": "local-3", "TREX_RANK": "1", "TREX_WORLD": "1000"}.items():
        monkeypatch.setenv(key, value)
    task = this_task()
    assert (task.backend, task.job_id, task.rank, task.local_rank, task.world) == ("local", "local-3", 1, 1, 1000)
    assert (task.node_count, task.restart, task.cpus) == (1, 0, 1)


def test_process_that_was_not_started_as_a_rank_is_a_job_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("TREX_JOB", "TREX_RANK", "TREX_WORLD"):
        monkeypatch.delenv(key, raising=False)
    task = this_task()
    assert (task.job_id, task.rank, task.world) == (f"local-{os.getpid()}", 0, 1)


def test_this_machine_has_no_queue(home: Path) -> None:
    local, run = backend("local"), RunDir(home / "runs" / "mine")
    assert list(backends()) == kinds() == ["local", "slurm"]
    assert local.is_available()
    assert (local.queued(run), local.cancel(run), list(local.addresses("n1"))) == ([], [], [])
    assert list(local.problems(Cluster(kind="local"))) == []
    answers = local.ask([run])
    assert (dict(answers.queued), dict(answers.starts), answers.silent) == ({}, {}, ())
