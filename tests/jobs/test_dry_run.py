"""What a dry run prints of the batch scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

import jobs.slurm
from jobs.cli import main

FOLDER = Path(jobs.slurm.__file__).parent
WORDS = ["run", "recipe.yaml", "--cluster", "cluster.yaml", "--dry-run"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    Path("recipe.yaml").write_text("name: mine\nextract: {datasets: [dtd, pets]}\n")
    Path("cluster.yaml").write_text("train: {gpus_per_node: 4, constraint: a100}\nextract: {gpus_per_node: 1}\n")
    return tmp_path


@pytest.mark.usefixtures("home")
def test_first_script_is_printed_with_one_line_per_embedded_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(WORDS) == 0
    first, *others = capsys.readouterr().out.split("# ---- would be submitted: ")[1:]
    assert len(others) == 3
    assert first.startswith("train\n#!/bin/bash\n")
    for name in ("verify.py", "start.sh", "requeue.sh"):
        text = (FOLDER / name).read_text().rstrip()
        assert text.splitlines()[-1] not in first.splitlines()
        count = len(text.splitlines())
        assert first.splitlines().count(f"# ... {count} lines: jobs/slurm/{name}; --verbose prints them") == 1
    assert first.rstrip().endswith("\nexit $rc")


@pytest.mark.usefixtures("home")
def test_other_jobs_are_printed_as_differences_from_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(WORDS) == 0
    extract = capsys.readouterr().out.split("# ---- would be submitted: ")[2].rstrip().splitlines()
    assert extract[:2] == ["extract-dtd, extract-pets", "# as the first job, with"]
    assert "#SBATCH --array=0-1%2" in extract
    assert "#SBATCH --job-name=mine-extract" in extract
    assert "#SBATCH --gpus-per-node=1" in extract
    assert extract[-1] == "# without --constraint"
    assert not any("--requeue" in line for line in extract), "as in the first job"


@pytest.mark.usefixtures("home")
def test_verbose_dry_run_prints_every_script_completely(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--verbose"]) == 0
    scripts = capsys.readouterr().out.split("# ---- would be submitted: ")[1:]
    assert len(scripts) == 4
    for script in scripts:
        assert all((FOLDER / name).read_text().rstrip() in script for name in ("verify.py", "start.sh", "requeue.sh"))
