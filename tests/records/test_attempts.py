"""The attempts of a run, and what its stages used, from the history and from accounting."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.records.examples import ENVIRONMENT, EVENTS, SUBMISSION
from trex.records.attempts import Start, Usage, attempts, usage
from trex.records.environment import Node, values_of
from trex.records.events import AttemptEnded, AttemptStarted

STARTED = AttemptStarted(1000.0, "train", ("train",), "12", 0, "nothing", nodes=2, node="n1", world=8)
ENDED = AttemptEnded(1060.0, "train", ("train",), "12", 0, 75, "saved", "SIGUSR2", "epoch-0001", 60.0)
PROBE = {"stage": "probe", "keys": ("probe-dtd",)}
#: 8 GPUs and 64 CPUs on two nodes.
ON_GPUS = ENVIRONMENT


def test_each_attempt_has_its_own_machines_and_end_also_if_jobs_start_and_end_at_the_same_time() -> None:
    again, other = {"restart": 1}, {**PROBE, "job": "13_1"}
    history = [
        STARTED, ON_GPUS, replace(STARTED, **other), replace(ON_GPUS, **other, python="3.13.0"), ENDED,
        replace(STARTED, **again), replace(ENDED, **other, code=0), replace(ON_GPUS, **again, python="3.12.9"),
    ]  # fmt: skip
    first, probe, second = attempts(history)
    assert (first.environment, first.end) == (ON_GPUS, ENDED)
    assert (probe.environment and probe.environment.python, probe.end and probe.end.code) == ("3.13.0", 0)
    assert (second.environment and second.environment.python, second.end) == ("3.12.9", None)


def test_machines_and_ends_without_a_start_are_left_out() -> None:
    """The line of the start may be damaged."""
    assert attempts([ON_GPUS, ENDED, EVENTS[2]]) == []


def test_stages_use_what_accounting_says_over_all_starts_of_all_their_jobs() -> None:
    submissions = [
        replace(SUBMISSION, stage="probe", jobs={"probe-dtd": "13_0", "probe-pets": "13_1"}),
        replace(SUBMISSION, stage="train", jobs={"train": "12"}),
    ]
    accounting = {
        "12": [Start("NODE_FAIL", 100, 8, 4, 500), Start("COMPLETED", 10, 16, 8, 50)],
        "13_0": [Start("COMPLETED", 7, 2, 0)],
        "13_1": [Start("COMPLETED", 3, 2, 0)],
    }
    assert usage(attempts([STARTED]), submissions, accounting) == {
        "train": Usage(110, 480, 960, 550),
        "probe": Usage(10, 0, 20, 0),
    }, "the start of job 12 that recorded nothing counts too"


def test_gpus_and_cpus_that_accounting_does_not_count_are_those_of_the_attempts() -> None:
    """By default, Slurm's accounting counts no GPUs."""
    made = attempts([STARTED, ON_GPUS])
    assert usage(made, starts={"12": [Start("COMPLETED", 10, cpus=80)]}) == {"train": Usage(10, 80, 800)}


def test_without_accounting_attempts_count_with_the_time_that_they_recorded() -> None:
    killed = replace(STARTED, restart=1)
    other_node = replace(ON_GPUS, restart=2, nodes=(Node("n3", 1, {}, "Xeon", 4),))
    history = [STARTED, ON_GPUS, ENDED, killed, replace(STARTED, restart=2), other_node, replace(ENDED, restart=2)]
    assert usage(attempts(history)) == {"train": Usage(120, 60 * 8, 60 * 64 + 60 * 4)}


def test_attempt_that_runs_counts_until_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trex.records.attempts.time.time", lambda: 1007.0)
    made = attempts([STARTED, ON_GPUS])
    assert usage(made) == {"train": Usage()}
    assert usage(made, running={"12"}) == {"train": Usage(7, 56, 7 * 64)}


def test_usage_is_told_with_three_digits_and_without_what_is_zero() -> None:
    assert Usage(1, 3600 * 1234.5, 3600 * 0.01234, 3_600_000).words() == "1234 GPU-hours, 0.0123 core-hours, 1 kWh"
    assert Usage(7).words() == ""


def test_only_what_differs_between_attempts_has_several_values() -> None:
    other = replace(ON_GPUS, libraries={"CUDA": "12.8"}, nodes=(Node("n7", 8, {"Y": 8}, "EPYC", 64),))
    found = values_of([ON_GPUS, other, ON_GPUS])
    several = {name: values for name, values in found.items() if len(values) > 1}
    assert several == {"devices": ["8 x X", "8 x Y"], "CUDA": ["13.0", "12.8"]}
    assert "timm" not in found, "it is not installed"
