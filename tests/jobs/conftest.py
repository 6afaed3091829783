"""Stand-ins for Slurm's programs: each prints the lines that a test gave it, and records its arguments."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.plan.runs import open_config, save_config
from trex.records.run_dir import RunDir
from trex.records.stage import STAGES
from trex.records.submission import Submission

_PROGRAM = """#!/bin/sh
echo "$*" >> {path}.asked
while IFS= read -r line; do echo "$line"; done < {path}.says
if [ -e {path}.then ]; then /bin/mv {path}.then {path}.says; fi
"""


@dataclass(frozen=True)
class FakeSlurm:
    """Programs in a folder that is the only one on PATH."""

    folder: Path

    def says(self, program: str, *lines: str, then: list[str] | None = None) -> None:
        """Let a program print `lines`, or from its second call on the lines `then`."""
        path = self.folder / program
        path.write_text(_PROGRAM.format(path=path))
        path.chmod(0o755)
        (self.folder / f"{program}.says").write_text("".join(f"{line}\n" for line in lines))
        if then is not None:
            (self.folder / f"{program}.then").write_text("".join(f"{line}\n" for line in then))

    def asked(self, program: str) -> list[str]:
        """Return the arguments of each call of a program."""
        path = self.folder / f"{program}.asked"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """An empty working folder, and stand-ins for Slurm's programs on PATH."""
    folder = tmp_path / "fake_slurm"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(folder))
    for module in ("calls", "send"):  # no pauses between two tries
        monkeypatch.setattr(f"jobs.slurm.{module}.time", SimpleNamespace(sleep=lambda _: None, time=time.time))
    return FakeSlurm(folder)


def saved_run(recipe: str) -> RunDir:
    """Write a recipe into the working folder, and its config into its run folder as a submission does."""
    Path("recipe.yaml").write_text(f"name: mine\n{recipe}\n")
    run, config = open_config("recipe.yaml")
    save_config(run, config)
    return run


def queued(job_id: str, state: str, comment: str) -> str:
    """Return a job as squeue prints it."""
    return squeue_line(job_id, state, "None", "N/A", comment, "", "0:01", "1:00", "n1")


def squeue_line(*fields: str) -> str:
    """Return a line of squeue: id, state, reason, preemption time, comment, script, time used and left, nodes."""
    return "".join(f"{field}\x1f" for field in fields)


def note_submission(run: RunDir, comment: str, **jobs: str) -> None:
    """Record a submission of the run. `jobs` are the job ids by key, with `_` in place of `-`."""
    named = {key.replace("_", "-", 1): job_id for key, job_id in jobs.items()}
    stage = next(stage for stage in STAGES if next(iter(named)).startswith(stage))
    Submission(0.0, "slurm", stage, named, "", comment, script="", code="", dependency="").append(run.submissions)
