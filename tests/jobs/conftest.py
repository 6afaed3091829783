"""A stand-in for Slurm's programs: each says what a test wrote down for it, and keeps what it was asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

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
    """Programs in a folder that is all of PATH."""

    folder: Path

    def says(self, program: str, *lines: str, then: list[str] | None = None) -> None:
        """Let a program print `lines`; from the second call on `then`."""
        path = self.folder / program
        path.write_text(_PROGRAM.format(path=path))
        path.chmod(0o755)
        (self.folder / f"{program}.says").write_text("".join(f"{line}\n" for line in lines))
        if then is not None:
            (self.folder / f"{program}.then").write_text("".join(f"{line}\n" for line in then))

    def asked(self, program: str) -> list[str]:
        """The words of each call of a program."""
        path = self.folder / f"{program}.asked"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """A folder to work in, and stand-ins for Slurm's programs there."""
    folder = tmp_path / "fake_slurm"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(folder))
    return FakeSlurm(folder)


def queued(job_id: str, state: str, comment: str) -> str:
    """A job as squeue prints it."""
    return f"{job_id}|{state}|None|{comment}|0:01|1:00|n1"


def note_submission(run: RunDir, comment: str, **jobs: str) -> None:
    """Let a run have been submitted: the job id of each key, `_` for `-`."""
    named = {key.replace("_", "-", 1): job_id for key, job_id in jobs.items()}
    stage = next(stage for stage in STAGES if next(iter(named)).startswith(stage))
    Submission(0.0, "slurm", stage, named, comment, code="", dependency="").append(run.submissions)
