"""`trex logs --follow` can be started before the job starts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.cli import main
from jobs.commands import logs
from jobs.plan.runs import open_config, save_config
from tests.jobs.conftest import FakeSlurm, note_submission, queued


def test_follow_waits_for_the_log_while_the_job_is_in_the_queue(
    fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("recipe.yaml").write_text("name: mine\n")
    run, config = open_config("recipe.yaml")
    save_config(run, config)
    note_submission(run, "a", train="7")
    log = run.jobs / "slurm" / "7_0_log.out"
    log.parent.mkdir()
    looks: list[float] = []

    def pause(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            log.write_text("step 1\n")
        elif len(looks) > 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(logs, "time", SimpleNamespace(sleep=pause))
    fake_slurm.says("squeue", queued("7", "PENDING", "a"))
    assert main(["logs", "mine", "--follow"]) == 130
    shown = capsys.readouterr()
    assert shown.err.count("no log yet: job 7 is waiting") == 1
    assert shown.out == "step 1\n"

    log.unlink()
    looks.clear()
    fake_slurm.says("squeue")
    assert main(["logs", "mine", "--follow"]) == 2
    assert looks == [0]
