"""`tools/simulate_goodput.py`: what it predicts where the answer is known, and what it reads from a run."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.plan.runs import open_config, save_config
from tools.simulate_goodput import Outcome, Times, Training, main, measured
from trex.records.events import AttemptEnded, AttemptStarted, CheckpointSaved, TrainingResumed, TrainingStarted
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir

#: Ten hours of steps in one epoch, in which nothing but the steps takes time and nothing happens.
NOTHING = Times(
    steps=36_000, epoch=36_000, save=(0.0,), start=(0.0,), end=(0.0,), detect=(0.0,), limit=1e9, node_hours=1e9
)


def simulate(times: Times, every: float | None, nodes: int = 1, repeat: int = 100) -> list[Outcome]:
    return [Training(times, nodes, every, random.Random(seed)).run() for seed in range(repeat)]


def goodput(times: Times, every: float | None, nodes: int = 1, repeat: int = 100) -> float:
    return statistics.fmean(one.goodput for one in simulate(times, every, nodes, repeat))


def test_undisturbed_training_loses_its_saves_start_and_validations() -> None:
    times = replace(
        NOTHING, epoch=7200, save=(60.0,), start=(300.0,), end=(100.0,), validation=(200.0,), queue=(900.0,)
    )
    [one] = simulate(times, 1800, repeat=1)
    allocated = 36_000 + 300 + 100 + 5 * 200 + 20 * 60
    assert one.goodput == pytest.approx(36_000 / allocated)
    assert one.wall_hours == pytest.approx((allocated + 900) / 3600)


@pytest.mark.parametrize(("nodes", "node_hours", "save"), [(1, 0.5, 6.0), (64, 64.0, 30.0)])
def test_failures_cost_what_theory_says(nodes: int, node_hours: float, save: float) -> None:
    """Daly's exact mean for independent failures (tests/training/test_interval.py checks it with another program)."""
    between, every = 3600 * node_hours / nodes, 120.0
    expected = every / (between * math.expm1((every + save) / between))
    times = replace(NOTHING, save=(save,), node_hours=node_hours)
    assert goodput(times, every, nodes) == pytest.approx(expected, rel=0.01)


def test_failure_costs_its_detection_and_a_start_too() -> None:
    quick = replace(NOTHING, node_hours=1.0)
    slow = replace(quick, detect=(100.0,), start=(200.0,))
    failures = statistics.fmean(one.failures for one in simulate(slow, 60))
    assert 1 / goodput(slow, 60) - 1 / goodput(quick, 60) == pytest.approx((1 + failures) * 300 / 36_000, rel=0.15)


def test_preemption_and_time_limit_lose_no_step() -> None:
    times = replace(NOTHING, save=(10.0,), start=(50.0,), end=(5.0,), limit=3600.0, stop_hours=2.0)
    for one in simulate(times, 0, repeat=20):
        assert one.failures == 0
        assert one.stops >= 10
        lost = 36_000 / one.goodput - 36_000
        assert (one.stops - 1) * 65 < lost <= (one.stops + 1) * 65 + 1e-6  # less if it is stopped while it starts


def test_automatic_interval_is_as_good_as_the_best_fixed_one_at_any_size() -> None:
    times = replace(NOTHING, save=(20.0,), node_hours=3700.0, detect=(60.0,), start=(60.0,))
    for nodes in (1, 256):
        fixed = [goodput(times, 60 * minutes, nodes) for minutes in (2, 5, 10, 20, 30)]
        assert goodput(times, None, nodes) > max(fixed) - 0.005


def make_run(folder: Path) -> RunDir:
    """A run with three starts: preempted after 100 s, failed, finished. A step takes 2 s, a validation 30 s."""
    (folder / "mine.yaml").write_text("name: mine\noptimizer: {warmup_epochs: 1}\ntrain: {epochs: 2, batch_size: 10}\n")
    run, config = open_config(str(folder / "mine.yaml"), (f"runs={folder}/runs",))
    save_config(run, config)
    start = AttemptStarted(1000.0, "train", ("train",), "12", 0, "nothing", nodes=4, node="n1", world=4)
    end = AttemptEnded(1160.0, "train", ("train",), "12", 0, 75, "saved", "SIGTERM", "a", 160.0)
    saved = CheckpointSaved(1155.0, 50, "stop", 4.0, seconds_signal_to_saved=4.0)
    for event in (
        start, TrainingStarted(1050.0, 0, 0, None), saved, end,
        replace(start, time=1460.0), TrainingResumed(1490.0, 50, 0, None), replace(saved, time=1500.0, seconds=6.0),
        replace(start, time=1600.0), TrainingResumed(1640.0, 50, 0, None),
        replace(end, time=2000.0, code=0),
    ):  # fmt: skip
        event.append(run.events)
    for step, epoch, phase, time in (
        (100, 1.0, "train", 1800.0),
        (100, 1.0, "validation", 1830.0),
        (200, 2.0, "train", 2000.0),
    ):
        MetricsLine(phase, step, epoch, {"images_per_second": 5.0}, time).append(run.metrics)  # type: ignore[arg-type]
    return run


def test_times_and_rates_of_a_run_are_read_from_its_records(tmp_path: Path) -> None:
    found = measured(make_run(tmp_path), Times())
    hours = (160 + 40 + 400) / 3600
    assert (found.steps, found.epoch) == (400, 200)
    assert (found.save, found.start, found.queue) == ((4.0, 6.0), (50.0, 30.0, 40.0), (0.0, 300.0, 100.0))
    assert found.validation == (30.0,)
    assert (found.node_hours, found.stop_hours) == (pytest.approx(4 * hours), pytest.approx(hours))


def test_table_is_the_same_for_the_same_seed_and_options_replace_what_a_run_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--from",
        str(make_run(tmp_path).root),
        "--nodes",
        "4",
        "16",
        "--every",
        "auto",
        "0",
        "5",
        "--repeat",
        "20",
    ]
    assert main([*words, "--save", "1", "--hours", "5"]) == 0
    first = capsys.readouterr().out
    assert main([*words, "--save", "1", "--hours", "5"]) == 0
    assert capsys.readouterr().out == first
    assert "5 h of steps" in first
    assert "a save 1 s, a start 40 s" in first
    assert [row.split("|")[1:3] for row in first.splitlines()[-6:]] == [
        [f" {nodes} ", f" {every} "] for nodes in (4, 16) for every in ("auto", "epoch", "5 min")
    ]


@pytest.mark.parametrize("words", [["--nodes", "0"], ["--every", "-1"], ["--save", "x"], ["--hours", "inf"]])
def test_wrong_option_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_run_without_a_step_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path)
    run.metrics.unlink()
    assert main(["--from", str(run.root)]) == 2
    assert f"{run.root}: no step of its training is recorded" in capsys.readouterr().err
