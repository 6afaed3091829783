"""`checkpoint.every_minutes: auto`: what it measures, what it chooses, and that the training is the same with it."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.conftest import assert_same_bits
from tests.training.test_resume import final_state, finish
from trex.config import Config, load
from trex.config.schema import CheckpointConfig
from trex.distributed import Ranks
from trex.errors import ExitCode, UserError
from trex.interruption import StopRequest
from trex.records.attempts import training_attempts
from trex.records.events import (
    AttemptEnded,
    AttemptStarted,
    CheckpointSaved,
    Event,
    IntervalChosen,
    TrainingResumed,
    TrainingStarted,
    read_events,
    record,
)
from trex.records.run_dir import RunDir
from trex.training import interval
from trex.training.checkpoint import Checkpoints
from trex.training.interval import NODE_HOURS, UNTIL_MEASURED, History, Interval, best_interval, chosen_interval
from trex.training.saving import Saving
from trex.training.state import Position
from trex.training.trainer import train

START = AttemptStarted(0.0, "train", ("train",), "12", 0, "nothing", nodes=2, node="n1", world=8)
BEGAN = TrainingStarted(60.0, 0, 0, None)
SAVED = CheckpointSaved(3600.0, 20, "timer", 1.5, seconds_signal_to_saved=None)
END = AttemptEnded(7200.0, "train", ("train",), "12", 0, 75, "saved", "SIGTERM", "epoch-0001", 7200.0)
RESUMED = TrainingResumed(61.0, 20, 0, None)


def cost(interval: float, save: float, between_failures: float) -> float:
    """The time that a second of progress takes if failures come at random, without the time of a restart.

    The exact mean for a restart from the last save (Daly 2006, equation 20, without restart time).
    """
    return between_failures * math.expm1((interval + save) / between_failures) / interval


@pytest.mark.parametrize(("save", "between_failures"), [(0.1, 1e6), (2, 144_000), (60, 10_000), (60, 600), (100, 120)])
def test_interval_costs_hardly_more_than_the_best_of_all(save: float, between_failures: float) -> None:
    tried = [between_failures * 1.05**power for power in range(-300, 50)]
    best = min(cost(one, save, between_failures) for one in tried)
    assert cost(best_interval(save, between_failures), save, between_failures) < 1.01 * best


def test_simulated_failures_agree_with_that_cost() -> None:
    """The formula that the test above relies on, compared with failures drawn one by one."""
    draw, save, between_failures, length = random.Random(0), 60.0, 600.0, 240.0
    total = 0.0
    for _ in range(4000):
        while (until := draw.expovariate(1 / between_failures)) < length + save:
            total += until
        total += length + save
    assert total / 4000 / length == pytest.approx(cost(length, save, between_failures), rel=0.05)


def test_quick_saves_follow_young() -> None:
    assert best_interval(1e-3, 1e6) == pytest.approx(math.sqrt(2 * 1e-3 * 1e6), rel=1e-3)


@pytest.mark.parametrize(
    ("save", "between_failures", "expected"),
    [
        (1.8, 40 * 3600, best_interval(1.8, 40 * 3600)),
        (1.8, 1e9, 1800),  # no longer than half an hour
        (60.0, 1e9, 6000),  # unless saves would need more than 1 % of the time
        (0.1, 60.0, 60),  # no shorter than a minute
    ],
)
def test_choice_has_bounds(save: float, between_failures: float, expected: float) -> None:
    assert chosen_interval(save, between_failures) == pytest.approx(expected)


def test_expected_failures_begin_with_the_published_rate_and_follow_what_is_seen() -> None:
    assert History().hours_between_failures(1) == pytest.approx(NODE_HOURS)
    assert History().hours_between_failures(64) == pytest.approx(NODE_HOURS / 64)
    assert History(0, 1e6, 1e6).hours_between_failures(1) == NODE_HOURS  # never fewer failures than published
    assert 40 < History(2, 80.0, 80.0).hours_between_failures(1) < 80
    assert History(10_000, 50_000.0, 100_000.0).hours_between_failures(2) == pytest.approx(5, rel=0.01)


AGAIN = replace(START, restart=1)
OTHER_END = replace(END, stage="probe", keys=("probe-dtd",))


@pytest.mark.parametrize(
    ("events", "failures", "hours"),
    [
        ([START, BEGAN, SAVED, END], 0, 2.0),  # preempted, and saved
        ([START, BEGAN, SAVED, replace(END, code=ExitCode.DONE)], 0, 2.0),
        ([START, BEGAN, SAVED, replace(END, code=ExitCode.LOST)], 1, 2.0),  # a rank is lost
        ([START, BEGAN, SAVED], 1, 1.0),  # killed: known until the last event
        ([START, replace(END, code=ExitCode.USER_ERROR)], 0, 2.0),  # before the first step, nothing is lost
        ([START], 0, 0.0),
        ([START, BEGAN, SAVED, OTHER_END, AGAIN, RESUMED, SAVED, replace(END, restart=1)], 1, 3.0),
        ([replace(START, stage="probe"), replace(END, stage="probe", code=ExitCode.FAULT)], 0, 0.0),
    ],
)
def test_only_ends_without_a_clean_stop_are_failures(events: list[Event], failures: int, hours: float) -> None:
    assert History.of(training_attempts(events)) == History(failures, hours, 2 * hours)


def test_first_run_saves_after_ten_minutes_until_it_has_measured_a_save(tmp_path: Path) -> None:
    made = Interval("auto", tmp_path / "events.jsonl")
    made.begin(0)
    assert made.seconds == UNTIL_MEASURED == 600
    made.saved(2.0, 0.0, 10)
    assert made.seconds == 1800


def test_choice_is_logged_and_recorded_once_until_it_changes(tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    events = tmp_path / "events.jsonl"
    for one in [START, BEGAN, SAVED] * 40 + [START, RESUMED]:
        record(one, events)
    made = Interval("auto", events)
    made.begin(20)
    made.saved(1.5, 1.5, 30)
    [chosen] = [one for one in read_events(events).strict() if isinstance(one, IntervalChosen)]
    assert (chosen.step, chosen.save_seconds, chosen.failures, chosen.hours) == (20, 1.5, 40, 40.0)
    assert chosen.failure_hours == pytest.approx((0.02 * NODE_HOURS + 80) / 40.02 / 2, abs=0.01)
    assert made.seconds == pytest.approx(best_interval(1.5, 3600 * chosen.failure_hours), rel=0.01)
    assert caplog.messages == [chosen.text]
    assert chosen.text == (
        "saves every 2 min: a save costs 1.5 s, a failure every 1 h 55 min is expected (40 seen in 40 h 0 min)"
    )
    for _ in range(10):
        made.saved(15.0, 1.5, 40)
    later = [one for one in read_events(events).strict() if isinstance(one, IntervalChosen)][1:]
    assert 1 < len(later) < 10
    assert later[-1].seconds > 2 * chosen.seconds


def test_fixed_interval_measures_nothing(tmp_path: Path) -> None:
    made = Interval(3.0, tmp_path / "events.jsonl")
    made.begin(0)
    made.saved(100.0, 100.0, 1)
    assert made.seconds == 180
    assert Interval(0, tmp_path / "events.jsonl").seconds == 0
    assert not (tmp_path / "events.jsonl").exists()


def test_only_rank_0_chooses(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for rank in (1, 0):
        saving = Saving(Checkpoints(run.checkpoints), CheckpointConfig(), replace(Ranks(), rank=rank), lambda *_: None)
        saving.begin(Position(), on_disk=False)
        saving.write({"position": vars(Position(0, 1, 1))}, Position(0, 1, 1), "timer")
        saving.finish()
        assert run.events.exists() == (rank == 0)


def test_time_of_a_save_is_how_long_the_training_waits_for_it(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    saving = Saving(Checkpoints(run.checkpoints), CheckpointConfig(), Ranks(), lambda *_: None)
    at = Position(0, 1, 1)
    saving.write({"position": vars(at)}, at, "timer", since=saving._last_time - 50)
    saving.finish()
    [chosen] = read_events(run.events).strict()
    assert isinstance(chosen, IntervalChosen)
    assert 50 <= chosen.save_seconds < 100


@pytest.mark.parametrize(("lead", "warned"), [(50.0, True), (70.0, False), (None, False)])
def test_lead_that_two_steps_and_two_saves_exceed_is_warned_about_once(
    tmp_path: Path, caplog, lead: float | None, warned: bool
) -> None:
    """What counts is how long the writing takes: a stop waits for one that is under way, and writes the last one."""
    run = RunDir(tmp_path)
    saving = Saving(Checkpoints(run.checkpoints), CheckpointConfig(), Ranks(), lambda *_: None)
    saving.compare_with_lead(lead, 100.0)  # no save was measured yet
    for one in (START, BEGAN, replace(SAVED, seconds=20.0), replace(START, restart=1)):
        record(one, run.events)
    saving.begin(Position(0, 20, 20), on_disk=True)
    for _ in range(2):
        saving.compare_with_lead(lead, 10.0)
    warnings = [message for message in caplog.messages if message.startswith("signal_lead is 50 s, but two steps and")]
    assert len(warnings) == warned


def test_wait_of_a_save_and_not_its_writing_decides_about_the_interval(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for one in [START, BEGAN, SAVED] * 40 + [START, RESUMED]:
        record(one, run.events)
    made = Interval("auto", run.events)
    made.begin(20)
    for _ in range(10):
        made.saved(0.5, 4.0, 30)
    hours = History.of(training_attempts(read_events(run.events).strict())[:-1]).hours_between_failures(2)
    assert made.save_seconds == pytest.approx(0.5)
    assert made.write_seconds == pytest.approx(4.0)
    assert made.seconds == pytest.approx(best_interval(0.5, 3600 * hours), rel=0.01)
    made.saved(None, 4.0, 40)  # the last save of a start, which the training waits for in full
    assert made.save_seconds == pytest.approx(0.5)
    again = Interval("auto", run.events)
    again.begin(40)
    assert again.save_seconds == pytest.approx(0.5, rel=0.3), "also at the next start"


def test_checkpoints_are_written_for_at_most_a_tenth_of_the_time() -> None:
    assert chosen_interval(0.1, 3600.0, write=50.0) == 500
    assert chosen_interval(0.1, 3600.0, write=500.0) == 5000
    assert chosen_interval(0.1, 3600.0, write=1.0) == chosen_interval(0.1, 3600.0)


@pytest.mark.slow
def test_training_that_chooses_its_interval_ends_with_the_same_bits(
    tiny, saved_run, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    reference, config = tiny("reference"), tiny("auto", "checkpoint.every_minutes=auto")
    finish(saved_run(reference), reference)
    monkeypatch.setattr(interval, "SHORTEST", 1e-9)
    monkeypatch.setattr(interval, "LONGEST", 1e-9)
    monkeypatch.setattr(interval, "CHEAP", 1e9)
    monkeypatch.setattr(interval, "BUSY", 1e9)
    run, stop = saved_run(config), StopRequest()
    stop.lead_seconds = 1e-6
    train(run, config, Ranks(), stop)
    assert "signal_lead is 1e-06 s" in caplog.text
    events = read_events(run.events).strict()
    assert sum(isinstance(one, CheckpointSaved) and one.reason == "timer" for one in events) >= 1
    assert any(isinstance(one, IntervalChosen) for one in events)
    assert_same_bits(final_state(RunDir.of(reference)), final_state(run))


@pytest.mark.parametrize(("text", "expected"), [("auto", "auto"), ("0", 0.0), ("2.5", 2.5)])
def test_setting_is_a_number_or_auto(tmp_path: Path, text: str, expected: object) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"checkpoint: {{every_minutes: {text}}}\n")
    assert load(path, Config).checkpoint.every_minutes == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("atuo", r"expected a number or auto, got 'atuo'; did you mean 'auto'\?"),
        ("-1", "expected at least 0"),
        ("null", "is empty: expected a number or auto"),
    ],
)
def test_another_word_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"checkpoint: {{every_minutes: {text}}}\n")
    with pytest.raises(UserError, match=message):
        load(path, Config)
