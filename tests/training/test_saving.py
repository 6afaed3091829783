"""When a checkpoint is due, which checkpoints are kept, and what happens if one cannot be written."""

from __future__ import annotations

import errno
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.disks import small_disk
from tests.test_distributed import with_limit
from trex import distributed, tensor_files
from trex.config.schema import CheckpointConfig
from trex.distributed import Ranks
from trex.errors import Unwritable
from trex.records.events import SaveReason
from trex.storage import Space
from trex.training.checkpoint import Checkpoints
from trex.training.saving import MAX_FAILED_SAVES, Request, Saving
from trex.training.state import Position


class Run:
    """The `Saving` of a run, with the saves that it reported."""

    def __init__(self, folder: Path, **settings: float) -> None:
        self.folder = folder
        self.saves: list[tuple[str, str]] = []
        self.saving = Saving(
            Checkpoints(folder), CheckpointConfig(**{"every_minutes": 10.0, **settings}), Ranks(), self.on_saved
        )

    def on_saved(self, checkpoint, reason: SaveReason, seconds: float) -> None:
        self.saves.append((checkpoint.path.name, reason))

    def write(self, step: int, reason: SaveReason, epoch: int = 0, state: dict[str, Any] | None = None) -> None:
        position = Position(epoch, step, step)
        self.saving.write({"position": vars(position), **(state or {})}, position, reason)
        self.saving.finish()

    def block_writes(self) -> None:
        """Make every write fail: a file has the path of the checkpoint folder."""
        self.folder.write_text("not a folder")


def test_stop_request_comes_before_a_timed_save(tmp_path: Path) -> None:
    saving = Run(tmp_path, every_minutes=1e-9).saving
    assert saving.request(stop=True) == Request.STOP
    assert saving.request(stop=False) == Request.SAVE


def test_only_rank_0_requests_timed_saves(tmp_path: Path) -> None:
    settings = CheckpointConfig(every_minutes=1e-9)
    saving = Saving(Checkpoints(tmp_path), settings, replace(Ranks(), rank=1), lambda *_: None)
    assert saving.request(stop=False) == Request.CONTINUE


def test_timer_restarts_with_each_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path, every_minutes=10)
    run.saving._last_time -= 601
    assert run.saving.request(stop=False) == Request.SAVE
    run.write(1, "timer")
    assert run.saving.request(stop=False) == Request.CONTINUE


def save_slowly(ranks: Ranks, folder: Path) -> tuple[bool, int]:
    """Save with two ranks, whose collectives fail after a second, in 2.5 seconds. Then use a collective again."""
    distributed.SIGN_OF_LIFE_SECONDS = 0.2
    limited = with_limit(ranks, 1.0)
    checkpoints = Checkpoints(folder)
    write = checkpoints.write
    checkpoints.write = lambda *words, **named: time.sleep(2.5) or write(*words, **named)  # type: ignore[method-assign]
    saving = Saving(checkpoints, CheckpointConfig(), limited, lambda *_: None)
    position = Position(0, 1, 1)
    saving.write({"position": vars(position)}, position, "timer")
    saving.finish()
    return saving.is_saved(position), limited.maximum(ranks.rank)


def test_save_may_take_longer_than_a_collective(tmp_path: Path, on_ranks) -> None:
    assert on_ranks(2, save_slowly, tmp_path / "checkpoints") == [(True, 1), (True, 1)]
    assert Checkpoints(tmp_path / "checkpoints").newest() is not None


def test_checkpoint_is_due_every_n_steps(tmp_path: Path) -> None:
    saving = Run(tmp_path, every_steps=3).saving
    assert [step for step in range(1, 8) if saving.is_due(step)] == [3, 6]
    assert not Run(tmp_path, every_steps=0).saving.is_due(3)


def test_saved_position_is_known_after_a_write_and_after_a_resume(tmp_path: Path) -> None:
    run = Run(tmp_path)
    position = Position(0, 4, 4)
    assert not run.saving.is_saved(position)
    run.saving.begin(position, on_disk=True)
    assert run.saving.is_saved(position)
    position.step = position.global_step = 5  # the trainer changes its position in place
    assert not run.saving.is_saved(position)
    run.write(5, "timer")
    assert run.saving.is_saved(position)
    assert run.saves == [("epoch-0000-step-00000005", "timer")]


def test_milestones_are_kept_at_the_end_of_every_n_epochs(tmp_path: Path) -> None:
    run = Run(tmp_path, milestone_epochs=2, keep=1)
    run.write(9, "timer", epoch=2)  # within an epoch: not a milestone
    for epoch in range(1, 6):
        run.write(0, "end" if epoch == 5 else "epoch", epoch)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == [f"epoch-000{epoch}-step-00000000" for epoch in (2, 4, 5)]
    newest = Checkpoints(tmp_path).newest()
    assert newest is not None
    assert (newest.finished, newest.manifest.milestone) == (True, False)


def test_failed_saves_are_logged_and_the_last_of_max_failed_saves_in_a_row_ends_the_run(tmp_path: Path, caplog) -> None:
    assert MAX_FAILED_SAVES == 3
    run = Run(tmp_path / "checkpoints")
    for _ in range(2):  # a successful save resets the count
        run.block_writes()
        for step in range(1, MAX_FAILED_SAVES):
            run.write(step, "epoch" if step == 2 else "timer")
            assert not run.saving.is_saved(Position(0, step, step))
        run.folder.unlink()
        run.write(3, "timer")
        shutil.rmtree(run.folder)
    assert caplog.text.count("cannot save") == 2 * (MAX_FAILED_SAVES - 1)
    run.block_writes()
    for step in range(4, 3 + MAX_FAILED_SAVES):
        run.write(step, "timer")
    lost = r"The 3 steps after step 3 are lost; the checkpoint of step 3 is kept\."
    with pytest.raises(Unwritable, match=f"cannot save step 6: .*{lost}"):
        run.write(6, "timer")


def test_full_disk_keeps_the_last_checkpoint_and_what_other_files_need(
    tmp_path: Path, caplog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that does not fit is not begun, so that its failure does not take the place of smaller files."""
    big = {"weight": torch.zeros(100_000)}
    with small_disk(tmp_path / "disk", "size=1000k") as disk:
        run = Run(disk.folder / "checkpoints", keep=1)
        run.write(1, "timer", state=big)
        disk.fill(leave=100_000)
        free = Space.at(disk.folder).free
        with monkeypatch.context() as patch:
            patch.setattr(tensor_files, "save_and_hash", lambda *_: pytest.fail("a write that must fail was begun"))
            run.write(2, "timer", state=big)
        assert "disk full: cannot write" in caplog.text
        assert " and 400.0 kB are needed" in caplog.text
        assert Space.at(disk.folder).free == free
        newest = Checkpoints(run.folder).newest()
        assert newest is not None
        assert newest.manifest.step == 1
        disk.empty()
        run.write(3, "stop", state=big)
        assert [path.name for path in run.folder.iterdir()] == ["epoch-0000-step-00000003"]


def test_quota_that_ends_a_write_is_named_with_the_folder_of_the_checkpoints(
    tmp_path: Path, caplog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_file: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(tmp_path / ".unfinished-x" / "checkpoint.pt"))

    monkeypatch.setattr(os, "fsync", fails)
    Run(tmp_path / "checkpoints").write(1, "timer")
    assert f"cannot save: quota exceeded: cannot write {tmp_path}/checkpoints. The file system" in caplog.text
    assert "`quota -s`" in caplog.text


@pytest.mark.parametrize("reason", ["stop", "end"])
def test_one_error_of_the_file_system_does_not_prevent_the_last_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: SaveReason
) -> None:
    run, fsync, failures = Run(tmp_path / "checkpoints"), os.fsync, [OSError(errno.EIO, "Input/output error")]

    def fails_once(file: int) -> None:
        if failures:
            raise failures.pop()
        fsync(file)

    monkeypatch.setattr(os, "fsync", fails_once)
    run.write(1, reason)
    assert failures == []
    assert run.saves == [("epoch-0000-step-00000001", reason)]


@pytest.mark.parametrize("reason", ["stop", "end"])
def test_failed_save_at_the_last_chance_ends_the_run_at_once(tmp_path: Path, reason: SaveReason) -> None:
    run = Run(tmp_path / "checkpoints")
    run.block_writes()
    with pytest.raises(Unwritable, match=r"cannot save step 1: .*there is no checkpoint"):
        run.write(1, reason)
