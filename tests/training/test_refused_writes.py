"""A training survives a file system that refuses its metrics, events and TensorBoard for a while, and loses no line."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.disks import make_read_only, make_writable, small_disk
from trex import storage
from trex.distributed import Ranks
from trex.errors import Interrupted, Unwritable
from trex.interruption import StopRequest
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir
from trex.training.trainer import train

SETTINGS = ("train.epochs=1", "train.log_every=1", "train.batch_size=16", "checkpoint.keep=1")


class AtSteps(StopRequest):
    """Calls a function after certain steps, and asks to stop after `stop`."""

    def __init__(self, stop: int = 0, **actions: Callable[[], object]) -> None:
        super().__init__()
        self.step, self.stop = -2, stop  # a start checks twice before its first step
        self.actions = {int(name.removeprefix("after_")): action for name, action in actions.items()}

    def __bool__(self) -> bool:
        self.step += 1
        self.actions.pop(self.step, lambda: None)()
        return 0 < self.stop <= self.step


def steps(run: RunDir) -> list[int]:
    return [line.step for line in MetricsLine.read_lines(run.metrics).strict() if line.phase == "train"]


@pytest.mark.long
@pytest.mark.slow
def test_metrics_that_a_full_disk_refuses_are_written_when_there_is_space_again(
    tiny, saved_run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk is full for more lines than the last block of the file takes, and for two saves."""
    with small_disk(tmp_path / "disk", "size=300m") as disk, caplog.at_level(logging.INFO):
        config = tiny("refused", f"runs={disk.folder}", *SETTINGS, "train.epochs=3", method="trex_plain")
        run = saved_run(config)
        train(run, config, Ranks(), AtSteps(after_2=disk.fill, after_40=disk.empty))
        assert steps(run) == list(range(1, 43))
    said = ("cannot save: disk full: cannot write", "the lines of this file are kept", "can be written again; no line")
    assert [caplog.text.count(one) for one in said] == [2, 1, 1]


@pytest.mark.slow
def test_lines_that_cannot_be_written_before_a_stop_are_in_the_checkpoint(
    tiny, saved_run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk", "size=300m") as disk, caplog.at_level(logging.INFO):
        config = tiny("stopped", f"runs={disk.folder}", *SETTINGS, method="trex_plain")
        run = saved_run(config)

        def refuse() -> None:
            for path in (run.metrics, run.events):
                make_read_only(path)

        with pytest.raises(Interrupted):
            train(run, config, Ranks(), AtSteps(stop=5, after_2=refuse))
        assert caplog.text.count("the lines of this file are kept") == 1
        assert '"kind": "checkpoint"' in caplog.text  # the event is in the log
        assert f"lines that {run.metrics} lacks:\n{{" in caplog.text
        for path in (run.metrics, run.events):
            make_writable(path)
        assert steps(run) == [1, 2]
        train(run, config, Ranks(), StopRequest())
        assert steps(run) == list(range(1, 15))


@pytest.mark.slow
def test_run_folder_that_is_gone_ends_the_training(tiny, saved_run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_expected", set())
    config = tiny("gone", *SETTINGS, method="trex_plain")
    run = saved_run(config)
    storage.expect_folder(run.root)
    with pytest.raises(Unwritable, match="this run folder is gone"):
        train(run, config, Ranks(), AtSteps(after_2=lambda: shutil.rmtree(run.root)))
    assert not run.root.exists()
