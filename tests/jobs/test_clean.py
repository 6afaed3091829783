"""`trex clean`: what it lists, what it deletes, and that it waits for running jobs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jobs.backend import SITE
from jobs.cli import main
from jobs.local.process import this_task
from jobs.worker.lock import locked
from tests.jobs.conftest import saved_run
from trex.errors import ExitCode
from trex.records.run_dir import RunDir
from trex.training.checkpoint import Checkpoints


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run with an intact checkpoint, a damaged one, and what killed writers left."""
    monkeypatch.chdir(tmp_path)
    run = saved_run("")
    checkpoints = Checkpoints(run.checkpoints)
    for step in (1, 2):
        position = {"epoch": 0, "step": step, "global_step": step}
        checkpoints.write({"position": position, "w": torch.ones(1000)}, keep=2)
    (run.checkpoints / "epoch-0000-step-00000002" / "checkpoint.pt").write_bytes(b"garbage")
    checkpoints.tidy(Checkpoints(run.checkpoints).newest())
    (run.checkpoints / ".unfinished-epoch-0000-step-00000003-7").mkdir()
    features = run.features("dtd", "test").parent
    features.mkdir(parents=True)
    (features / ".unfinished-abc-test.h5").write_bytes(bytes(2_000_000))
    return run


LEFT = {
    "checkpoints/epoch-0000-step-00000002.damaged-0",
    "checkpoints/.unfinished-epoch-0000-step-00000003-7",
    "features/dtd/.unfinished-abc-test.h5",
}


def below(run: RunDir) -> set[str]:
    return {str(path.relative_to(run.root)) for path in run.root.rglob("*")}


def test_dry_run_lists_everything_and_deletes_nothing(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    before = below(run)
    assert main(["clean", str(run.root), "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert {line.removeprefix("would delete ").partition(":")[0] for line in shown.out.splitlines()} == LEFT
    assert "test.h5: unfinished, 2.0 MB" in shown.out
    assert "would delete 3 files and folders" in shown.err
    assert below(run) == before


def test_only_what_was_listed_is_deleted(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    before = below(run)
    assert main(["clean", str(run.root)]) == 0
    gone = before - below(run)
    assert gone >= LEFT
    assert all(any(path.startswith(left) for left in LEFT) for path in gone)
    assert Checkpoints(run.checkpoints).newest() is not None
    assert main(["clean", str(run.root)]) == 0
    assert "nothing to delete" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["train", "extract-dtd"])
def test_it_is_refused_while_a_job_works_on_the_run(run: RunDir, key: str) -> None:
    before = below(run)
    with locked(run.lock(key), this_task(), SITE):
        assert main(["clean", str(run.root)]) == ExitCode.LOCKED
        assert below(run) >= before
