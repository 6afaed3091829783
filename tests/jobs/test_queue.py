"""Calling squeue, and the ways in which Slurm writes job ids."""

from __future__ import annotations

import os

import pytest

from jobs.slurm.ids import JobId, elements
from jobs.slurm.queue import cancel, entries, holds_nodes, past_starts
from tests.jobs.conftest import FakeSlurm


@pytest.mark.parametrize(
    ("job_id", "expected"),
    [
        ("12", ["12"]),
        ("12_3", ["12_3"]),
        ("12_[3]", ["12_3"]),
        ("12_[0-2%4]", ["12_0", "12_1", "12_2"]),
        ("12_[0-1,5,8-9]", ["12_0", "12_1", "12_5", "12_8", "12_9"]),
        ("12_[0-6:3%1]", ["12_0", "12_3", "12_6"]),
        ("12_[0-3...]", ["12_[0-3...]"]),
        ("12+0", ["12+0"]),
    ],
)
def test_elements_of_an_array_id(job_id: str, expected: list[str]) -> None:
    assert [str(job) for job in elements(job_id)] == expected


def test_id_of_an_element_has_its_array_and_number() -> None:
    assert JobId.parse("123_4") == JobId("123", 4)
    assert JobId.parse("123") == JobId("123", None)
    assert [str(JobId("123", 4)), str(JobId("123"))] == ["123_4", "123"]


def test_queue_is_queried_by_user_id_and_not_by_login_name(
    fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "somebody")
    fake_slurm.says("squeue")
    assert entries() == []
    assert f"--user {os.getuid()} " in fake_slurm.asked("squeue")[0]


def test_options_that_users_set_for_slurms_programs_neither_hide_jobs_nor_choose_what_is_cancelled(
    fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in ("squeue", "sacct", "scancel"):
        name = f"{program.upper()}_STATE"
        monkeypatch.setenv(name, "RUNNING")
        path = fake_slurm.folder / program
        path.write_text('#!/bin/sh\necho "state: $' + name + f'" >> {path}.asked\n')
        path.chmod(0o755)
    entries()
    holds_nodes("7")
    cancel(["7"])
    past_starts([JobId("7")])
    assert [fake_slurm.asked(program) for program in ("squeue", "sacct", "scancel")] == [
        ["state: ", "state: "], ["state: "], ["state: "],
    ]  # fmt: skip
