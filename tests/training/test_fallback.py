"""The second place for the checkpoint at a stop: private, of one run, and only until the run folder has space again."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch

from tests.disks import small_disk
from tests.stopping import StopAfter
from tests.training.conftest import assert_same_bits
from trex.config.schema import CheckpointConfig
from trex.distributed import Ranks
from trex.errors import Interrupted, Unwritable, UserError
from trex.interruption import StopRequest
from trex.records.events import SaveReason
from trex.training.checkpoint import Checkpoints
from trex.training.fallback import Fallback
from trex.training.saving import Saving
from trex.training.state import Position
from trex.training.trainer import train


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a run folder and a second place."""
    (tmp_path / "run").mkdir()
    (tmp_path / "second").mkdir()
    return tmp_path


def settings(home: Path, keep: int = 2) -> CheckpointConfig:
    return CheckpointConfig(keep=keep, fallback_folder=str(home / "second"))


def state(step: int, epoch: int = 0) -> dict:
    return {"position": {"epoch": epoch, "step": step, "global_step": step}, "weight": torch.full((1000,), step)}


def fallback(home: Path, run: str = "run") -> Fallback:
    return Fallback(home / run, settings(home))


def own(home: Path) -> Checkpoints:
    return Checkpoints(home / "run" / "checkpoints")


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name[-8:]) for path in folder.rglob("epoch-*"))


def test_newer_checkpoint_of_the_second_place_is_moved_into_the_run_folder(home: Path) -> None:
    own(home).write(state(3), keep=2)
    fallback(home).write(state(5), finished=False)
    newest = fallback(home).newest(own(home))
    assert newest is not None
    assert (newest.path.parent, newest.manifest.step) == (own(home).folder, 5)
    assert newest.load()["weight"].tolist() == [5] * 1000
    assert steps(home / "run") == [3, 5]
    assert list((home / "second").iterdir()) == []


@pytest.mark.parametrize(("epoch", "step"), [(0, 3), (0, 2)])
def test_older_checkpoint_of_the_second_place_is_deleted(home: Path, epoch: int, step: int) -> None:
    own(home).write(state(3), keep=2)
    fallback(home).write(state(step, epoch), finished=False)
    newest = fallback(home).newest(own(home))
    assert newest is not None
    assert newest.manifest.step == 3
    assert steps(home) == [3]


def test_epochs_are_compared_before_steps(home: Path) -> None:
    own(home).write(state(9, epoch=9999), keep=2)
    fallback(home).write(state(1, epoch=10000), finished=True)
    newest = fallback(home).newest(own(home))
    assert newest is not None
    assert (newest.path.name, newest.finished) == ("epoch-10000-step-00000001", True)


def test_damaged_checkpoint_of_the_second_place_is_left_there_and_not_used(home: Path, caplog) -> None:
    own(home).write(state(3), keep=2)
    made = fallback(home).write(state(5), finished=False)
    assert made is not None
    (made.path / "checkpoint.pt").write_bytes(b"x")
    newest = fallback(home).newest(own(home))
    assert newest is not None
    assert newest.manifest.step == 3
    assert str(made.path.parent) in caplog.text
    assert made.path.exists()


def test_second_place_helps_if_all_checkpoints_of_the_run_are_damaged(home: Path) -> None:
    damaged = own(home).write(state(3), keep=2)
    (damaged.path / "checkpoint.pt").write_bytes(b"x")
    fallback(home).write(state(2), finished=False)
    newest = fallback(home).newest(own(home))
    assert newest is not None
    assert newest.manifest.step == 2


def test_runs_of_the_same_name_do_not_mix(home: Path) -> None:
    fallback(home, "a/run").write(state(5), finished=False)
    assert fallback(home, "b/run").newest(own(home)) is None
    assert steps(home) == [5]


def test_folder_is_private_and_nothing_is_read_from_one_that_is_not(home: Path) -> None:
    place = fallback(home)
    before = os.umask(0)
    try:
        place.write(state(5), finished=False)
    finally:
        os.umask(before)
    assert place.folder is not None
    assert stat.S_IMODE(place.folder.stat().st_mode) == 0o700
    for make in (lambda: place.folder.chmod(0o770), lambda: open_to_all_behind_a_link(place.folder)):
        make()
        with pytest.raises(UserError, match=f"{place.folder}: is a link, belongs to another user or is open"):
            place.newest(own(home))
        with pytest.raises(UserError, match="is a link"):
            place.write(state(6), finished=False)


def open_to_all_behind_a_link(folder: Path) -> None:
    folder.chmod(0o700)
    folder.rename(folder.with_name("moved"))
    folder.symlink_to(folder.with_name("moved"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_folder_of_another_user_is_refused(home: Path) -> None:
    place = fallback(home)
    assert place.folder is not None
    place.folder.mkdir(mode=0o700)
    os.chown(place.folder, 12345, 12345)
    with pytest.raises(UserError, match="belongs to another user"):
        place.write(state(6), finished=False)


def test_second_place_that_does_not_exist_is_a_mistake_that_is_found_at_the_start(home: Path) -> None:
    (home / "second").rmdir()
    with pytest.raises(UserError, match=f"checkpoint.fallback_folder is {home}/second: expected a folder that exists"):
        fallback(home).newest(own(home))
    assert Fallback(home / "run", CheckpointConfig()).newest(own(home)) is None


@pytest.mark.parametrize("reason", ["stop", "end", "timer"])
def test_only_the_last_save_uses_the_second_place(home: Path, tmp_path: Path, reason: SaveReason) -> None:
    with small_disk(tmp_path / "disk", "size=1000k") as disk:
        run = disk.folder / "run"
        run.mkdir()
        saved = []
        saving = Saving(
            Checkpoints(run / "checkpoints"), settings(home), Ranks(), lambda made, *_: saved.append(made.path.parent)
        )
        disk.fill()
        if reason == "end":  # the run is not complete: the next stage would not find the checkpoint
            with pytest.raises(
                Unwritable, match=f"cannot save step 5: disk full: .* It is saved in {home}/second/run-"
            ):
                saving.write(state(5), Position(0, 5, 5), reason)
        else:
            saving.write(state(5), Position(0, 5, 5), reason)
            saving.finish()
        assert saving.is_saved(Position(0, 5, 5)) == (reason == "stop")
        place = Fallback(run, settings(home))
        assert saved == ([] if reason == "timer" else [place.folder])
        if reason == "timer":
            return
        with pytest.raises(Unwritable, match="cannot be moved into the run folder: disk full"):
            Fallback(run, CheckpointConfig(fallback_folder=str(home / "second"))).newest(
                Checkpoints(run / "checkpoints")
            )
        disk.empty()
        newest = place.newest(Checkpoints(run / "checkpoints"))
        assert newest is not None
        assert (newest.manifest.step, newest.finished) == (5, reason == "end")


@pytest.mark.long
@pytest.mark.slow
def test_training_stopped_on_a_full_disk_ends_with_the_bits_of_one_that_was_not(
    tiny, saved_run, home: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    common = ("train.epochs=1", "train.log_every=1")
    reference = tiny("reference", *common, method="trex_plain")
    train(saved_run(reference), reference, Ranks(), StopRequest())
    expected = Checkpoints(Path(reference.runs) / "reference" / "checkpoints").newest()
    with small_disk(tmp_path / "disk", "size=300m") as disk:
        config = tiny(
            "stopped", *common, f"runs={disk.folder}", f"checkpoint.fallback_folder={home}/second", method="trex_plain"
        )
        run = saved_run(config)

        class FullAtTheStop(StopAfter):
            def __bool__(self) -> bool:
                if stopped := super().__bool__():
                    disk.fill()
                return stopped

        with pytest.raises(Interrupted):
            train(run, config, Ranks(), FullAtTheStop(3))
        with pytest.raises(Unwritable, match=r"stays there, because it cannot be moved into the run folder: disk full"):
            train(run, config, Ranks(), StopRequest())
        disk.empty()
        train(run, config, Ranks(), StopRequest())
        found = Checkpoints(run.checkpoints).newest()
        assert expected is not None
        assert found is not None
        assert_same_bits(expected.load(), found.load())
    assert list((home / "second").iterdir()) == []
