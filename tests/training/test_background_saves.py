"""Checkpoints are written while the training continues, and a stop waits for the writing and for nothing else."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.conftest import assert_same_bits
from tests.training.test_refused_writes import AtSteps
from tests.training.test_resume import final_state, finish
from trex.config.schema import CheckpointConfig
from trex.distributed import Ranks
from trex.errors import Interrupted, TrexError, Unwritable
from trex.records.events import CheckpointSaved, SaveReason, read_events
from trex.records.run_dir import RunDir
from trex.training.checkpoint import Checkpoint, Checkpoints
from trex.training.host_copy import HostCopy
from trex.training.saving import MAX_FAILED_SAVES, Request, Saving
from trex.training.state import Position
from trex.training.trainer import train


class SlowDisk:
    """Lets the thread that writes checkpoints wait at each file that it flushes, until it is released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_free = threading.Event()
        self.waiting = threading.Event()  #: set as soon as a file waits
        self.files = 0  #: how many files the thread has flushed
        fsync = os.fsync

        def slow(file: int) -> None:
            if threading.current_thread().name == "checkpoint":
                self.files += 1
                self.waiting.set()
                assert self.is_free.wait(100), "the training waited for the disk"
            fsync(file)

        monkeypatch.setattr(os, "fsync", slow)

    def release_later(self) -> None:
        """Release it while the training waits for it."""
        threading.Timer(0.5, self.is_free.set).start()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    made = SlowDisk(monkeypatch)
    yield made
    made.is_free.set()


def state(step: int) -> dict[str, Any]:
    return {
        "position": {"epoch": 0, "step": step, "global_step": step},
        "model": {"w": torch.full((1000,), float(step)), "t": torch.arange(12.0).reshape(3, 4).t()},
        "meter": {},
    }


def saving_in(folder: Path, ranks: Ranks | None = None, saved: list[str] | None = None) -> Saving:
    def note(made: Checkpoint, reason: SaveReason, seconds: float) -> None:
        if saved is not None:
            saved.append(f"{made.path.name[-1]} {reason}")

    return Saving(Checkpoints(folder), CheckpointConfig(every_minutes=0), ranks or Ranks(), note)


def saves(run: RunDir) -> list[tuple[int, str]]:
    events = read_events(run.events).strict()
    return [(event.step, event.reason) for event in events if isinstance(event, CheckpointSaved)]


@pytest.mark.slow
def test_training_continues_while_a_checkpoint_is_written_and_ends_with_the_same_bits(
    tiny, saved_run, disk: SlowDisk
) -> None:
    torch.set_num_threads(1)
    reference, config = tiny("reference", "train.epochs=1"), tiny("saves", "train.epochs=1", "checkpoint.every_steps=3")
    finish(saved_run(reference), reference)
    run, seen = saved_run(config), []

    def look() -> None:  # two steps after the save of step 3, which is not written yet
        seen.append([path.name for path in run.checkpoints.glob("epoch-*")])
        disk.is_free.set()

    train(run, config, Ranks(), AtSteps(after_5=look))
    assert seen == [[]]
    assert saves(run) == [(3, "timer"), (6, "timer"), (7, "end")]
    assert_same_bits(final_state(RunDir.of(reference)), final_state(run))


@pytest.mark.slow
def test_saves_in_the_background_have_the_bits_of_a_save_that_the_training_waits_for(tiny, saved_run) -> None:
    """The save at a stop is written at once. That of the same step in the background is written during later steps."""
    torch.set_num_threads(1)
    states = []
    for name, stop in (("waits", 3), ("continues", 5)):
        config = tiny(name, "train.epochs=1", "checkpoint.every_steps=3")
        run = saved_run(config)
        with pytest.raises(Interrupted):
            train(run, config, Ranks(), AtSteps(stop=stop))
        states.append(Checkpoints(run.checkpoints).at(run.checkpoints / "epoch-0000-step-00000003").load())
    states[1]["metrics_unwritten"] = states[0]["metrics_unwritten"]  # the lines of a log, with their times
    assert_same_bits(*states)


def test_written_file_has_the_bytes_of_the_state_at_the_save_whatever_happens_to_it_later(
    tmp_path: Path, disk: SlowDisk
) -> None:
    expected = Checkpoints(tmp_path / "reference").write(state(1), keep=1)
    saving, changed = saving_in(tmp_path / "checkpoints"), state(1)
    saving.write(changed, Position(0, 1, 1), "timer")
    assert disk.waiting.wait(60)
    for tensor in changed["model"].values():
        tensor.add_(1)
    disk.is_free.set()
    saving.finish()
    newest = Checkpoints(tmp_path / "checkpoints").newest()
    assert newest is not None
    assert newest.content() == (expected.path / "checkpoint.pt").read_bytes()


@pytest.mark.slow
def test_stop_during_the_writing_of_its_step_waits_for_that_and_writes_nothing_again(
    tiny, saved_run, disk: SlowDisk
) -> None:
    config = tiny("stopped", "checkpoint.every_steps=3")
    run = saved_run(config)
    with pytest.raises(Interrupted, match="saved at step 3"):
        train(run, config, Ranks(), AtSteps(stop=3, after_3=disk.release_later))
    newest = Checkpoints(run.checkpoints).newest()
    assert newest is not None
    assert newest.manifest.step == 3
    assert saves(run) == [(3, "timer")]


@pytest.mark.slow
def test_stop_during_the_writing_of_an_earlier_step_saves_both(tiny, saved_run, disk: SlowDisk) -> None:
    config = tiny("stopped", "checkpoint.every_steps=3")
    run = saved_run(config)
    with pytest.raises(Interrupted, match="saved at step 5"):
        train(run, config, Ranks(), AtSteps(stop=5, after_5=disk.release_later))
    assert saves(run) == [(3, "timer"), (5, "stop")]
    assert sorted(path.name[-1] for path in run.checkpoints.iterdir()) == ["3", "5"]


def test_next_save_waits_for_the_one_that_is_being_written(tmp_path: Path, disk: SlowDisk) -> None:
    saved: list[str] = []
    saving = saving_in(tmp_path, saved=saved)
    saving.write(state(1), Position(0, 1, 1), "timer")
    assert saving.is_saved(Position(0, 1, 1)), "it need not be saved again"
    assert disk.waiting.wait(60)
    assert saving.request(stop=False) == Request.CONTINUE
    assert saved == []
    disk.release_later()
    saving.write(state(2), Position(0, 2, 2), "timer")
    assert saved == ["1 timer"]
    saving.finish()
    assert saved == ["1 timer", "2 timer"]


def test_ranks_ask_for_the_outcome_as_soon_as_it_is_there(tmp_path: Path) -> None:
    saving = saving_in(tmp_path)
    saving.write(state(1), Position(0, 1, 1), "timer")
    deadline = time.monotonic() + 60
    while (request := saving.request(stop=False)) == Request.CONTINUE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert request == Request.FINISH
    assert saving.request(stop=True) == Request.STOP
    saving.finish()
    assert saving.request(stop=False) == Request.CONTINUE


def _fail_to_save(ranks: Ranks, folder: Path) -> tuple[int, str, list[int]]:
    """Save before each step while the disk is full, until that ends the training."""
    checkpoints, finished = Checkpoints(folder), []

    def full(*_: object, **__: object) -> Checkpoint:
        time.sleep(0.05)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    checkpoints.write = full  # type: ignore[method-assign]
    saving = Saving(checkpoints, CheckpointConfig(every_minutes=1e-9), ranks, lambda *_: None)
    for step in range(10_000):
        request = Request(ranks.agree(saving.request(stop=False)))
        try:
            if request == Request.FINISH:
                finished.append(step)
                saving.finish()
            if request == Request.SAVE:
                saving.write(state(step), Position(0, step, step), "timer")
        except Unwritable as error:
            return step, str(error), finished
    return -1, "", finished


def test_failures_in_the_background_are_known_to_all_ranks_at_the_same_step(tmp_path: Path, on_ranks) -> None:
    first, second = on_ranks(2, _fail_to_save, tmp_path / "checkpoints")
    assert first == second
    step, message, finished = first
    assert len(finished) == MAX_FAILED_SAVES
    assert step == finished[-1]
    assert "there is no checkpoint" in message


def test_failure_before_a_stop_is_logged_and_the_last_save_is_tried(tmp_path: Path, caplog, monkeypatch) -> None:
    saving, fsync = saving_in(tmp_path / "checkpoints"), os.fsync
    saving._failed = MAX_FAILED_SAVES - 1

    def fails(file: int) -> None:
        if threading.current_thread().name == "checkpoint":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(file)

    monkeypatch.setattr(os, "fsync", fails)
    saving.write(state(1), Position(0, 1, 1), "timer")
    saving.write(state(1), Position(0, 1, 1), "stop")
    assert "cannot save: input/output error" in caplog.text
    assert saving.is_saved(Position(0, 1, 1))


def test_error_of_the_program_in_the_thread_is_raised_where_its_outcome_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving = saving_in(tmp_path)

    def check() -> None:
        raise TrexError("another start has the run")

    monkeypatch.setattr("trex.training.checkpoint.require_may_write", check)
    saving.write(state(1), Position(0, 1, 1), "timer")
    with pytest.raises(TrexError, match="another start has the run"):
        saving.finish()
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_under_way_is_written_if_an_error_ends_the_training(tmp_path: Path, disk: SlowDisk) -> None:
    saved: list[str] = []
    saving = saving_in(tmp_path, saved=saved)
    saving.write(state(1), Position(0, 1, 1), "timer")
    disk.release_later()
    saving.close(60)
    assert saved == ["1 timer"]
    assert Checkpoints(tmp_path).newest() is not None


def test_checkpoint_that_hangs_does_not_keep_a_training_from_ending_with_its_error(
    tmp_path: Path, disk: SlowDisk, caplog
) -> None:
    saving = saving_in(tmp_path)
    saving.write(state(1), Position(0, 1, 1), "timer")
    assert disk.waiting.wait(60)
    saving.close(0.1)
    assert "still not written after 0.1 s" in caplog.text


def test_training_waits_for_the_writing_if_there_is_no_memory_for_a_copy(
    tmp_path: Path, caplog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise MemoryError("cannot allocate")

    monkeypatch.setattr(HostCopy, "take", full)
    saved: list[str] = []
    saving_in(tmp_path, saved=saved).write(state(1), Position(0, 1, 1), "timer")
    assert saved == ["1 timer"]
    assert "the state cannot be copied (cannot allocate), so the training waits" in caplog.text


def test_copy_has_the_values_and_strides_and_reuses_its_memory() -> None:
    copy = HostCopy()
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    value = {
        "w": weight,
        "list": [torch.arange(3), "text", 7],
        "pair": (torch.empty(0), None),
        "part": weight[1:, :, 0],
    }
    first = copy.take(value)
    places = [first["w"].data_ptr(), first["list"][0].data_ptr()]
    assert torch.equal(first["w"], weight)
    assert first["w"].stride() == weight.stride()
    assert first["w"].data_ptr() != weight.data_ptr()
    assert torch.equal(first["part"], weight[1:, :, 0])
    assert (first["list"][1:], first["pair"][1]) == (["text", 7], None)
    weight.add_(1)
    assert not torch.equal(first["w"], weight)
    second = copy.take({**value, "more": torch.ones(5)})
    assert [second["w"].data_ptr(), second["list"][0].data_ptr()] == places
    assert torch.equal(second["w"], weight)
    assert second["more"].tolist() == [1] * 5
    assert copy.take({**value, "w": torch.zeros(2)})["w"].tolist() == [0, 0]


KILLED = """
import os, sys, threading
from pathlib import Path
import torch
from trex.config.schema import CheckpointConfig
from trex.distributed import Ranks
from trex.training.checkpoint import Checkpoints
from trex.training.saving import Saving
from trex.training.state import Position

call, left = sys.argv[2], int(sys.argv[3])
def dying(function):
    def called(*arguments, **named):
        global left
        if threading.current_thread().name == "checkpoint":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), 9)
        return function(*arguments, **named)
    return called
setattr(os, call, dying(getattr(os, call)))
state = {"position": {"epoch": 0, "step": 3, "global_step": 3}, "model": {"w": torch.full((1000,), 3.0)}}
saving = Saving(Checkpoints(Path(sys.argv[1])), CheckpointConfig(keep=2), Ranks(), lambda *_: None)
saving.write(state, Position(0, 3, 3), "timer")
while True:
    state["model"]["w"].add_(1)  # the training continues
"""


@pytest.mark.slow
@pytest.mark.parametrize(("call", "nth"), [("fsync", 1), ("fsync", 3), ("replace", 1), ("replace", 3), ("unlink", 3)])
def test_kill_while_a_checkpoint_is_written_in_the_background(tmp_path: Path, call: str, nth: int) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.write(state(step), keep=2)
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, call, str(nth)], timeout=120)
    assert done.returncode == -9
    newest = Checkpoints(tmp_path).newest()
    assert newest is not None
    step = newest.manifest.step
    assert step in (2, 3)
    assert newest.load()["model"]["w"].tolist() == [step] * 1000
    checkpoints.tidy(newest)
    checkpoints.write(state(4), keep=2)
    assert len(list(tmp_path.iterdir())) == 2
