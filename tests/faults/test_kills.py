"""A training that is killed at any moment continues, and ends with the same bits as one that was not killed."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.plan.runs import save_config
from tests.faults.nursery import Nursery, Request
from tests.pictures import write_digits
from tests.training.conftest import METHODS, TINY, assert_same_bits
from trex.config import Config, load
from trex.records.events import read_events
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir
from trex.training.checkpoint import Checkpoints

KILLED = -9


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    with Nursery() as made:
        yield made


class Trainings:
    """Trainings of two epochs, of seven steps with two images each, in the folders of one test."""

    def __init__(self, folder: Path, nursery: Nursery) -> None:
        self.folder, self.nursery = folder, nursery
        write_digits(folder / "few_digits", train=2, val=1)
        (folder / "tiny.yaml").write_text(f"{TINY}method: {METHODS['trex_class_means']}\n")

    def new(self, name: str, *more: str) -> RunDir:
        settings = ["model.encoder=resnet_small", "method.memory_bank_size=6", "train.batch_size=2"]
        settings += ["train.log_every=1", "checkpoint.every_steps=3"]
        folders = (f"data.folders.few_digits={self.folder}/few_digits", f"runs={self.folder}/runs", f"name={name}")
        config = load(self.folder / "tiny.yaml", Config, [*settings, *folders, *more])
        run = RunDir.of(config)
        save_config(run, config)
        return run

    def start(self, run: RunDir, **request: Any) -> int:
        return self.nursery.run(Request(str(run.root), f"{self.folder}/{run.name}.log", **request))

    def log(self, run: RunDir) -> str:
        return (self.folder / f"{run.name}.log").read_text()


@pytest.fixture
def trainings(tmp_path: Path, nursery: Nursery) -> Trainings:
    return Trainings(tmp_path, nursery)


def final_state(run: RunDir) -> dict[str, Any]:
    newest = Checkpoints(run.checkpoints).newest()
    assert newest is not None
    assert newest.finished
    return newest.load()


def saved_step(run: RunDir) -> int:
    newest = Checkpoints(run.checkpoints).newest()
    return 0 if newest is None else newest.manifest.step


def assert_complete(run: RunDir, reference: RunDir) -> None:
    """Check state, metrics and history of a finished run against one that was never killed.

    Only small files of a killed writer may be left over, which `trex clean` deletes: other jobs of the run may be
    writing such files at the same time, so a job does not delete them.
    """
    assert_same_bits(final_state(reference), final_state(run))
    lines, expected = (
        [(line.phase, line.step, line.values.get("loss")) for line in MetricsLine.read_lines(one.metrics).strict()]
        for one in (run, reference)
    )
    assert lines == expected, "each step is in the metrics once, with the same loss"
    assert read_events(run.events).records
    assert not list(run.checkpoints.glob(".unfinished-*"))
    assert all(path.is_file() and path.stat().st_size < 10_000 for path in run.root.rglob(".unfinished-*"))
    assert not list(run.jobs.glob("*.lock.*"))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_kill_before_any_file_operation_of_a_training(trainings: Trainings, record_property) -> None:
    one_epoch = ("train.epochs=1", "optimizer.warmup_epochs=0")
    reference = trainings.new("reference", *one_epoch)
    assert trainings.start(reference) == 0, trainings.log(reference)
    operation = tries = lost = 0
    while True:
        run = trainings.new(f"killed-{operation}", *one_epoch)
        code = trainings.start(run, die_at=operation)
        if code == 0:
            break
        assert code == 9, trainings.log(run)
        done = len(MetricsLine.read_lines(run.metrics).records)
        lost = max(lost, done - saved_step(run))
        assert trainings.start(run) == 0, trainings.log(run)
        assert_complete(run, reference)
        tries, operation = tries + 1, operation + 1
    assert tries > 50
    record_property("tries", tries)
    record_property("steps_lost", f"at most {lost}, saved every 3")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("least", [5, pytest.param(20, marks=pytest.mark.long)])
def test_kill_at_random_moments_of_a_training(trainings: Trainings, record_property, least: int) -> None:
    reference = trainings.new("reference")
    assert trainings.start(reference) == 0, trainings.log(reference)
    seconds = 5.0  # then the time of the fastest whole training until now
    chance = random.Random(least)
    kills = lost = number = 0
    while kills < least:
        run = trainings.new(f"killed-{number}")
        number += 1
        for start in range(6):
            began = time.monotonic()
            code = trainings.start(run, kill_after=chance.uniform(0.05, seconds))
            assert code in (KILLED, 0), trainings.log(run)
            if code == 0:
                seconds = seconds if start else min(seconds, time.monotonic() - began)
                break
            kills += 1
            lost += len(MetricsLine.read_lines(run.metrics).records) - saved_step(run)
        assert trainings.start(run) == 0, trainings.log(run)
        assert_complete(run, reference)
    record_property("tries", kills)
    record_property("steps_lost", f"{lost / kills:.1f} per kill, saved every 3")


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_kill_at_random_moments_of_writes(tmp_path: Path, nursery: Nursery, record_property) -> None:
    folder, log = tmp_path / "checkpoints", tmp_path / "log"
    chance = random.Random(1)
    found = 0
    for _ in range(200):
        seconds = chance.uniform(0.01, 0.3)
        assert nursery.run(Request(str(folder), str(log), kill_after=seconds, writes=True)) == KILLED
        committed = max([found, *map(int, log.read_text().split() if log.exists() else [])])
        newest = Checkpoints(folder).newest()
        found = 0 if newest is None else newest.manifest.step
        assert committed <= found <= committed + 1, "never older than the last one that was committed"
        assert len(list(folder.glob("epoch-*"))) <= 3, "two, and one that was about to be deleted"
    assert found > 200
    record_property("tries", 200)
    record_property("steps_lost", "0")
