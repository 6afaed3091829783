"""The `trex` command as a user runs it: what it prints, what it creates, its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trex.errors import ExitCode

ROOT = Path(__file__).resolve().parents[2]

TINY = """
data: {dataset: digits_unseen, workers: 0}
crops: {global_size: 16, local_size: 8, local_count: 1}
model: {encoder: resnet18}
method: {hidden_dim: 32, output_dim: 16, memory_bank_size: 64}
optimizer: {lr: 0.05, warmup_epochs: 0}
train: {epochs: 1, batch_size: 128, precision: "off", log_every: 2}
extract: {datasets: [digits_unseen], resize: 16, crop: 16}
probe: {seeds: 1}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


def trex(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in `home`, without Slurm on PATH."""
    empty = home.parent / "no_slurm"
    empty.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": str(empty), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "jobs.cli", *words]
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=720)


def slow(*values: object) -> object:
    """A test case that takes a few seconds, because it imports PyTorch."""
    return pytest.param(*values, marks=pytest.mark.slow)


def files(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*"))


def test_help_lists_every_exit_code(home: Path) -> None:
    said = trex(home, "--help").stdout
    assert [f"  {code.value:<3} {code.meaning}\n" in said for code in ExitCode] == [True] * len(ExitCode)


def test_every_mistake_is_reported_with_file_line_and_nearest_key_and_creates_nothing(home: Path) -> None:
    (home / "wrong.yaml").write_text("train:\n  epoch: 3\n  batch_size: many\nmodel: {encoder: resnet18}\n")
    before = files(home)
    done = trex(home, "train", "wrong.yaml")
    assert done.returncode == 2
    assert "wrong.yaml:2" in done.stderr
    assert "did you mean 'epochs'" in done.stderr
    assert "wrong.yaml:3" in done.stderr
    assert "Traceback" not in done.stderr
    assert files(home) == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "tiny.yaml", "train.epoch=3"], "did you mean 'epochs'"),
        (["train", "trex_sta"], "expected a config file or a run folder"),
        (["train", "tiny.yaml", "--cluster", "locl"], "did you mean 'local'"),
        (["train", "tiny.yaml", "--processes", "0"], "expected at least 1"),
        slow(["train", "tiny.yaml", "data.dataset=digit_seen", "--cluster", "local"], "did you mean 'digits_seen'"),
        (["report", "tiny.yaml"], "this run does not exist yet"),
        (["retry", "tiny.yaml"], "no stage was started yet"),
        (["logs", "tiny.yaml"], "no log of any job"),
        slow(["export", "tiny.yaml", "--to", "encoder.pth"], "Train first"),
        (["run", "tiny.yaml", "extract.weights=gone.pth"], "extract.weights: no such file"),
        (["train", "tiny.yaml", "train.start=gone.pth", "--cluster", "local"], "train.start: no such file"),
        slow(
            ["train", "tiny.yaml", "model.encoder=vit_b_32", "--cluster", "local"], "it can be evaluated, not trained"
        ),
        (["status", "nothing"], "expected a config file or a run folder"),
        (["frobnicate"], "no command 'frobnicate'; expected new, train, extract,"),
        (["trian", "tiny.yaml"], "no command 'trian'; did you mean 'train'?"),
        (["data", "lst"], "no command 'lst'; did you mean 'list'?"),
        (["train", "tiny.yaml", "--train.epochs=50"], "settings have no dashes: train.epochs=50"),
        (["train", "tiny.yaml", "train.EPOCH=3"], "did you mean 'epochs'"),
        (["train", "tiny.yaml", "--proceses=2"], "not understood"),
    ],
)
def test_mistake_in_a_command_prints_one_clear_line(home: Path, words: list[str], expected: str) -> None:
    done = trex(home, *words)
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_path_that_cannot_be_written_prints_one_clear_line(home: Path) -> None:
    (home / "file").write_text("")
    for words in (
        ["data", "get", "pets", "data.root=file/sets"],
        ["train", "tiny.yaml", "runs=file/runs", "--cluster", "local"],
        ["run", "tiny.yaml", "runs=file", "extract.weights=pixels", "--cluster", "local"],
    ):
        done = trex(home, *words)
        assert done.returncode == 2, done.stderr
        assert done.stderr.splitlines()[-1].startswith("trex: error: "), done.stderr
        assert "Traceback" not in done.stderr
        assert "/" in done.stderr.splitlines()[-1]


def test_dry_run_prints_what_would_run_and_creates_nothing(home: Path) -> None:
    before = files(home)
    done = trex(home, "run", "tiny.yaml", "--dry-run", "name=planned")
    assert done.returncode == 0, done.stderr
    assert "no Slurm here, using this machine" in done.stderr
    assert [line.split(": ")[1].split(" ")[0] for line in done.stdout.splitlines()] == [
        "train", "extract", "probe", "report",
    ]  # fmt: skip
    assert files(home) == before


@pytest.mark.slow
def test_name_of_both_a_recipe_and_a_run_means_the_recipe_unless_a_command_is_about_runs(home: Path) -> None:
    """An edited config is used even if a run of that name exists; commands about runs use the run."""
    (home / "configs").mkdir(exist_ok=True)
    (home / "configs" / "mine.yaml").write_text("name: mine\ntrain: {epochs: 17, batch_size: 64}\n")
    (home / "runs" / "mine").mkdir(parents=True)
    (home / "runs" / "mine" / "config.yaml").write_text("name: mine\ntrain: {epochs: 19, batch_size: 64}\n")
    edited = trex(home, "check", "mine", "--cluster", "local")
    assert "holds a run with another config (train.epochs: was 19, is now 17)" in edited.stdout
    other = trex(home, "train", "mine", "name=other", "--cluster", "local", "--dry-run")
    assert other.stdout.strip().endswith("runs/other"), other.stderr
    by_path = trex(home, "check", "runs/mine", "--cluster", "local")
    assert "runs/mine exists and would be continued" in by_path.stdout
    assert json.loads(trex(home, "status", "mine", "--json").stdout)[0]["epochs"] == 19


def test_run_folder_with_another_name_starts_another_run(home: Path) -> None:
    words = ("train", "--cluster", "local", "--dry-run")
    (home / "runs" / "a").mkdir(parents=True)
    (home / "runs" / "a" / "config.yaml").write_text(f"name: a\n{TINY}")
    assert f"in {home}/runs/a\n" in trex(home, *words, "runs/a").stdout
    assert f"in {home}/runs/a_2\n" in trex(home, *words, "runs/a", "name=a_2", "train.epochs=2").stdout
    assert f"in {home}/other/a\n" in trex(home, *words, "runs/a", "runs=other").stdout


def test_submitting_imports_no_torch() -> None:
    program = (
        "import sys, jobs.cli, jobs.slurm.submit; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'h5py')))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    "command", ["train", "extract", "probe", "run", "report", "check", "status", "logs", "retry", "cancel", "export"]
)
def test_every_command_has_help(home: Path, command: str) -> None:
    done = trex(home, command, "--help")
    assert done.returncode == 0
    assert len(done.stdout) > 200


@pytest.mark.slow
def test_complete_run_then_nothing_to_do_then_changed_config_is_refused(home: Path) -> None:
    done = trex(home, "run", "tiny.yaml", "name=way", "--cluster", "local", "--processes", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    run = home / "runs" / "way"
    assert (run / "report" / "index.html").exists()
    assert json.loads((run / "jobs" / "train.state.json").read_text())["state"] == "done"
    saved = sorted(path.stat().st_mtime_ns for path in run.rglob("*.pt"))

    again = trex(home, "run", "tiny.yaml", "name=way", "--cluster", "local", "--processes", "2")
    assert again.returncode == 0
    assert [f"{stage}: nothing to do" in again.stderr for stage in ("train", "extract", "probe")] == [True] * 3
    assert sorted(path.stat().st_mtime_ns for path in run.rglob("*.pt")) == saved

    changed = trex(home, "train", "tiny.yaml", "name=way", "train.epochs=2", "--cluster", "local")
    assert changed.returncode == 77
    assert "train.epochs" in changed.stderr

    status = trex(home, "status", "way")
    assert status.returncode == 0, status.stderr
    assert "train   done" in status.stdout
    logs = trex(home, "logs", "way")
    assert "report" in logs.stdout or "digits_unseen" in logs.stdout


@pytest.mark.slow
def test_second_command_for_a_running_run_is_refused(home: Path) -> None:
    words = [sys.executable, "-m", "jobs.cli", "train", "tiny.yaml", "name=twice", "train.epochs=200"]
    first = subprocess.Popen(
        [*words, "--cluster", "local"], cwd=home, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        assert first.stdout is not None
        assert any("step" in line for line in first.stdout)
        second = trex(home, "train", "tiny.yaml", "name=twice", "train.epochs=200", "--cluster", "local")
        assert second.returncode == 3, second.stdout + second.stderr
    finally:
        first.terminate()
        first.communicate(timeout=60)
    assert first.returncode == 75
