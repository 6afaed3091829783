"""What `trex status` says that the stages used: read from Slurm's accounting, or else from the run's own records."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.commands.status import as_text, collect
from jobs.slurm.ids import JobId
from jobs.slurm.queue import past_starts
from tests.jobs.conftest import FakeSlurm, note_submission, saved_run
from tests.records.examples import ENVIRONMENT, EVENTS
from trex.records.attempts import Start
from trex.records.run_dir import RunDir

#: Printed by sacct 22.05 for a job that was requeued once, an array, and a job on CPUs, with
#: AccountingStorageTRES=gres/gpu.
RECORDED = (
    "7|REQUEUED|3|billing=4,cpu=4,gres/gpu=4,node=2",
    "7|COMPLETED|20|billing=4,cpu=4,gres/gpu=4,node=2",
    "2_0|COMPLETED|3|billing=1,cpu=1,gres/gpu=1,node=1",
    "2_1|COMPLETED|3|billing=1,cpu=1,gres/gpu=1,node=1",
    "3|COMPLETED|2|billing=3,cpu=3,node=1",
)


def test_each_start_has_the_resources_that_slurm_counted(fake_slurm: FakeSlurm) -> None:
    fake_slurm.says("sacct", *RECORDED)
    assert past_starts([JobId("7"), JobId("2", 0), JobId("2", 1), JobId("3")]) == {
        JobId("7"): [Start("REQUEUED", 3, 4, 4), Start("COMPLETED", 20, 4, 4)],
        JobId("2", 0): [Start("COMPLETED", 3, 1, 1)],
        JobId("2", 1): [Start("COMPLETED", 3, 1, 1)],
        JobId("3"): [Start("COMPLETED", 2, 3, None)],
    }
    (asked,) = fake_slurm.asked("sacct")
    assert asked.endswith("--format=JobID,State,ElapsedRaw,AllocTRES")


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ("billing=1152,cpu=1152,energy=20543125,mem=1840000M,node=4", Start("X", 1, 1152, None, 20543125)),
        ("cpu=8,gres/gpu:a100=2,gres/gpu:h100=1,node=1", Start("X", 1, 8, 3)),
        ("cpu=8,gres/gpu=4,gres/gpu:a100=4,gres/gpumem=80G", Start("X", 1, 8, 4)),
        ("cpu=1K,energy=2.50M,gres/gpu=0", Start("X", 1, 1000, 0, 2_500_000)),
        ("cpu=8,energy=18446744073709551614", Start("X", 1, 8)),  # what Slurm stores if it could not measure it
        ("", Start("X", 1)),
        ("cpu,energy=,=4,gres/gpu=four,node=-1", Start("X", 1)),
    ],
)
def test_resources_that_are_missing_or_no_numbers_are_left_out(
    fake_slurm: FakeSlurm, resources: str, expected: Start
) -> None:
    fake_slurm.says("sacct", f"7|X|1|{resources}")
    assert past_starts([JobId("7")]) == {JobId("7"): [expected]}


@pytest.fixture
def run(fake_slurm: FakeSlurm) -> RunDir:
    """A run of which two jobs were submitted."""
    run = saved_run("extract: {datasets: [dtd]}")
    note_submission(run, "a", train="7")
    note_submission(run, "b", extract_dtd="2_0", extract_pets="2_1")
    fake_slurm.says("squeue")
    return run


def test_status_sums_what_each_stage_used_over_all_starts(
    run: RunDir, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (line.replace("|20|", "|3597|").replace("cpu=4,", "cpu=4,energy=9000000,") for line in RECORDED)
    fake_slurm.says("sacct", *lines)
    assert main(["status", "mine"]) == 0
    expected = "used: train 4 GPU-hours, 4 core-hours, 5 kWh; extract 0.00167 GPU-hours, 0.00167 core-hours\n"
    assert expected in capsys.readouterr().out
    assert main(["status", "mine", "--json"]) == 0
    used = json.loads(capsys.readouterr().out)[0]["usage"]
    assert used["train"] == {"seconds": 3600, "gpu_seconds": 14400, "core_seconds": 14400, "joules": 18_000_000}


def test_status_shows_no_gpus_and_no_energy_where_nothing_counts_them(run: RunDir, fake_slurm: FakeSlurm) -> None:
    fake_slurm.says("sacct", "7|COMPLETED|3600|billing=2,cpu=2,node=1")
    assert "used: train 2 core-hours\n" in as_text(collect(["mine"])) + "\n"
    fake_slurm.says("sacct", "7|PENDING|0|")
    assert "used" not in as_text(collect(["mine"]))


def test_report_shows_what_accounting_says(run: RunDir, fake_slurm: FakeSlurm) -> None:
    fake_slurm.says("sacct", *RECORDED)
    assert main(["report", "mine"]) == 0
    assert '<th scope="row" class="left">core-hours</th><td class="left">0.0256</td>' in run.report_page.read_text()


def test_status_of_a_run_on_this_machine_uses_its_own_records(tmp_path: Path, fake_slurm: FakeSlurm) -> None:
    run = saved_run("")
    start, end = EVENTS[0], replace(EVENTS[1], stage="train", keys=("train",), seconds=450.0)
    for event in (start, ENVIRONMENT, end):
        event.append(run.events)
    assert "used: train 1 GPU-hours, 8 core-hours" in as_text(collect(["mine"]))


def test_status_names_versions_and_machines_that_differ_between_the_starts_of_the_training(
    fake_slurm: FakeSlurm,
) -> None:
    run = saved_run("")
    probe = {"stage": "probe", "keys": ("probe-dtd",), "job": "13"}
    for restart, version in enumerate(("2.13.0", "2.13.0", "2.14.1")):
        replace(EVENTS[0], restart=restart).append(run.events)
        replace(ENVIRONMENT, restart=restart, packages={"torch": version}).append(run.events)
    replace(EVENTS[0], **probe).append(run.events)
    replace(ENVIRONMENT, **probe, python="3.9.9").append(run.events)
    assert "\n  its starts differ: torch 2.13.0 → 2.14.1\n" in as_text(collect(["mine"])) + "\n"
