"""The evaluation of milestones: when the training starts it, that it waits on all ranks, and that no bit changes."""

from __future__ import annotations

import pytest
import torch

from tests.stopping import StopAfter
from tests.training.conftest import assert_same_bits
from trex.config import Config
from trex.distributed import Ranks
from trex.errors import Interrupted
from trex.interruption import StopRequest
from trex.records.manifest import milestones
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir
from trex.training.checkpoint import Checkpoints
from trex.training.trainer import train


class Recorded(StopRequest):
    """An evaluation that takes `polls` answers each time, and asks to stop at one of them. It records its calls."""

    def __init__(self, run: RunDir, polls: int = 0, stop_at_start: int = 0) -> None:
        super().__init__()
        self.run, self.polls, self.stop_at_start = run, polls, stop_at_start
        self.starts: list[list[int]] = []
        self.left = 0
        self.calls: list[str] = []

    def start(self) -> None:
        self.starts.append(milestones(self.run.checkpoints))
        self.left = self.polls

    def holds_training(self) -> bool:
        self.left = max(self.left - 1, 0)
        if self.left == 1 and len(self.starts) == self.stop_at_start:
            self.signal_name = "SIGTERM"
        return self.left > 0

    def finish(self) -> None:
        self.calls.append("finish")

    def stop(self) -> None:
        self.calls.append("stop")


def state_of(run: RunDir) -> dict:
    newest = Checkpoints(run.checkpoints).newest()
    assert newest is not None
    assert newest.finished
    return newest.load()


SETTINGS = ("train.epochs=4", "checkpoint.milestone_epochs=1", "crops.local_count=0", "train.validate_every=4")


@pytest.mark.slow
def test_every_milestone_but_the_last_epoch_is_started_when_it_is_on_disk_and_changes_no_bit(tiny, saved_run) -> None:
    torch.set_num_threads(1)
    states = []
    for name in ("without", "with"):
        config = tiny(name, *SETTINGS)
        run = saved_run(config)
        evaluation = Recorded(run, polls=3)
        train(run, config, Ranks(), StopRequest(), evaluation if name == "with" else None)
        states.append(state_of(run))
    assert_same_bits(*states)
    assert evaluation.starts == [[1], [1, 2], [1, 2, 3]]
    assert evaluation.calls == ["finish", "stop"]


@pytest.mark.slow
def test_stop_signal_while_the_training_waits_interrupts_it_and_the_next_start_catches_up(tiny, saved_run) -> None:
    config = tiny("stopped", *SETTINGS, "train.epochs=3")
    run = saved_run(config)
    evaluation = Recorded(run, polls=100, stop_at_start=1)
    with pytest.raises(Interrupted):
        train(run, config, Ranks(), evaluation, evaluation)
    assert evaluation.calls == ["stop"]
    steps = [line.step for line in MetricsLine.read_lines(run.metrics).strict()]
    assert max(steps, default=0) <= 7, "no step of the second epoch was done"
    again = Recorded(run)
    train(run, config, Ranks(), StopRequest(), again)
    assert again.starts == [[1], [1, 2]], "at the restart, and after the second epoch"


@pytest.mark.slow
def test_training_that_is_interrupted_elsewhere_ends_what_it_started(tiny, saved_run) -> None:
    config = tiny("interrupted", *SETTINGS)
    run = saved_run(config)
    evaluation = Recorded(run)
    with pytest.raises(Interrupted):
        train(run, config, Ranks(), StopAfter(11), evaluation)
    assert evaluation.calls == ["stop"]


def _train(ranks: Ranks, config: Config) -> list[list[int]]:
    evaluation = Recorded(RunDir.of(config), polls=4)
    train(RunDir.of(config), config, ranks, StopRequest(), evaluation)
    return evaluation.starts


@pytest.mark.slow
def test_all_ranks_wait_and_only_rank_0_asks(on_ranks, tiny, saved_run) -> None:
    config = tiny("ranks", *SETTINGS, "train.epochs=2")
    saved_run(config)
    assert on_ranks(2, _train, config) == [[[1]], []]
    state_of(RunDir.of(config))
