"""Programs of the site: what is made of those that are missing, slow, broken, or print odd bytes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from jobs import programs
from jobs.commands.status import collect
from jobs.plan.runs import open_config, save_config
from jobs.slurm.ids import JobId
from jobs.slurm.queue import entries, past_starts
from tests.jobs.conftest import FakeSlurm, note_submission, queued


def test_missing_program_ends_with_127_and_is_named() -> None:
    done = programs.run(["no-such-program"])
    assert (done.code, done.ok, "no-such-program" in done.stderr) == (127, False, True)


@pytest.mark.parametrize("content", ["#!/bin/sh\n", "neither a script nor a binary"])
def test_program_that_cannot_be_executed_ends_with_126(tmp_path: Path, content: str) -> None:
    program = tmp_path / "tool"
    program.write_text(content)
    program.chmod(0o644 if content.startswith("#!") else 0o755)
    done = programs.run([str(program)])
    assert (done.code, done.ok, str(program) in done.stderr) == (126, False, True)


def test_program_without_an_answer_ends_with_124() -> None:
    began = time.monotonic()
    done = programs.run(["sleep", "30"], timeout=0.1)
    assert (done.code, done.ok) == (124, False)
    assert time.monotonic() - began < 10


def test_code_and_both_streams_of_a_program_are_returned() -> None:
    done = programs.run(["sh", "-c", "cat; echo wrong >&2; exit 3"], stdin="given")
    assert (done.code, done.stdout, done.stderr, done.ok) == (3, "given", "wrong\n", False)


def test_program_that_is_started_writes_to_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("earlier\n")
    words = ["sh", "-c", "echo out; echo err >&2; cat; echo $CHOSEN"]
    assert programs.start(words, {"PATH": os.environ["PATH"], "CHOSEN": "mine"}, log).wait(20) == 0
    assert log.read_text() == "earlier\nout\nerr\nmine\n"


def test_bytes_that_are_no_text_in_the_comment_of_another_job_do_not_hide_ours(fake_slurm: FakeSlurm) -> None:
    fake_slurm.says("squeue")
    path = fake_slurm.folder / "squeue.says"
    path.write_bytes(
        queued("8", "RUNNING", "caf\xe9").encode("latin-1") + b"\n" + queued("7", "PENDING", "a").encode() + b"\n"
    )
    assert [str(entry.id) for entry in entries()] == ["8", "7"]


def test_lines_of_squeue_with_other_fields_are_left_out(fake_slurm: FakeSlurm) -> None:
    fake_slurm.says("squeue", "slurm is busy today", queued("7", "RUNNING", "a"), queued("8", "RUNNING", "a") + "b\x1f")
    assert [str(entry.id) for entry in entries()] == ["7"]


def test_lines_of_sacct_without_a_state_are_left_out(fake_slurm: FakeSlurm) -> None:
    fake_slurm.says("sacct", "", "accounting is read-only", "7||", "7|COMPLETED|", "7|FAILED|12")
    found = past_starts([JobId("7")])
    assert [(start.ending, start.seconds) for start in found[JobId("7")]] == [("COMPLETED", 0), ("FAILED", 12)]


def test_accounting_that_prints_nonsense_does_not_end_the_status(fake_slurm: FakeSlurm) -> None:
    Path("recipe.yaml").write_text("name: mine\n")
    run, config = open_config("recipe.yaml")
    save_config(run, config)
    note_submission(run, "a", train="7")
    fake_slurm.says("squeue", queued("7", "RUNNING", "a"))
    fake_slurm.says("sacct", "", "none")
    (status,) = collect(["mine"])
    assert status.stages[0].state == "running"
