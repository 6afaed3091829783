"""What each attempt of a job records about the machines that it runs on."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest
import torch

from jobs.backend import starts_of
from jobs.plan.spec import Item, TaskSpec
from jobs.worker.machines import machine_of, record_machines
from jobs.worker.place import Task
from tests.faults.nursery import ROOT, Nursery
from tests.faults.test_kills import Trainings
from trex.machine import cpu_name, package_versions
from trex.records.environment import Environment, Node
from trex.records.events import read_events
from trex.records.run_dir import RunDir
from trex.reporting.collect import collect
from trex.reporting.stages import stage_rows


def environments(run: RunDir) -> list[Environment]:
    return [event for event in read_events(run.events).strict() if isinstance(event, Environment)]


def task(rank: int, node: str) -> Task:
    return Task("slurm", "7_2", rank, world=3, local_rank=0, node=node, node_count=2, restart=1, cpus=8)


def test_nodes_of_all_ranks_are_recorded_with_their_processes_and_cpus(tmp_path: Path) -> None:
    run, cpu = RunDir(tmp_path), torch.device("cpu")
    spec = TaskSpec("probe", str(tmp_path), (Item("dtd"), Item("pets")))
    ranks = [task(0, "n2"), task(1, "n1"), task(2, "n2")]
    for _ in range(2):
        record_machines(run, spec, ranks[0], cpu, [machine_of(rank, cpu) for rank in ranks])
    first, second = environments(run)
    assert first.nodes == (Node("n2", 2, {}, cpu_name(), 16), Node("n1", 1, {}, cpu_name(), 8))
    assert (first.keys, first.job, first.restart) == (("probe-dtd", "probe-pets"), "7_2", 1)
    assert (first.packages, first.libraries, first.python) == (package_versions(), {}, platform.python_version())
    assert second.nodes == first.nodes, "the first record is kept"


def test_gpus_of_all_ranks_are_counted_by_node_and_name(tmp_path: Path) -> None:
    machines = [f'["{node}", "{gpu}", "EPYC", 4]' for node, gpu in (("n1", "X"), ("n1", "X"), ("n2", "X"), ("n2", "Y"))]
    record_machines(RunDir(tmp_path), TaskSpec("train", str(tmp_path)), task(0, "n1"), None, machines)
    (found,) = environments(RunDir(tmp_path))
    assert [node.gpus for node in found.nodes] == [{"X": 2}, {"X": 1, "Y": 1}]
    assert (found.devices, found.gpus, found.cpus, found.world) == ("3 x X, 1 x Y", 4, 16, 4)


@pytest.mark.slow
def test_two_starts_of_a_training_leave_two_records_and_both_count_in_the_report(tmp_path: Path) -> None:
    with Nursery() as nursery:
        trainings = Trainings(tmp_path, nursery)
        run = trainings.new("twice", "train.epochs=1", "optimizer.warmup_epochs=0")
        for _ in range(2):
            assert trainings.start(run) == 0, trainings.log(run)
    first, second = environments(run)
    assert first.job != second.job
    assert [node.name for node in first.nodes] == [platform.node()]
    in_git = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
    assert (first.code.commit or "") == in_git.stdout.strip()
    data = collect(run, starts_of(run))
    seconds = sum(event.seconds for event in data.events if event.KIND == "attempt_ended")
    assert data.usage["train"].core_seconds == pytest.approx(seconds * first.cpus)
    head, rows = stage_rows(data)
    assert head == ["", "train"]
    assert rows[0] == ["devices", first.devices]
