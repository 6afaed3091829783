"""What ends the wait for a loader process, and what is checked before one starts."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
import time
from itertools import islice
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from tests.loading.test_training import CROPS
from trex.config.schema import DataConfig
from trex.datasets.registry import load_split
from trex.errors import TrexError, UserError
from trex.images.preprocessing import Geometry
from trex.interruption import StopRequest
from trex.loading import sockets
from trex.loading.evaluation import evaluation_batches
from trex.loading.shared_memory import require_shared_memory
from trex.loading.training import TrainingBatches
from trex.loading.workers import Wait, end_workers, received, start_worker, worker_context

SPLIT = load_split("digits_seen", "trainval", DataConfig())


class Locks(Dataset[object]):
    """Samples that cannot be sent to another process."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> object:
        return threading.Lock()


def stopped_workers() -> list[int]:
    """Stop all loader processes of this one."""
    pids = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return pids


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_stopped_workers_are_an_error_that_names_them_and_end_at_once(kind: str) -> None:
    wait = Wait(seconds=lambda: 2.0 if pids else 60.0)
    pids: list[int] = []
    made = TrainingBatches(SPLIT, CROPS, seed=3, batch_size=64, rank=0, world=1, workers=2, wait=wait)
    training = kind == "training"
    stream = (
        made.starting_at(0, 0)
        if training
        else evaluation_batches(SPLIT, range(len(SPLIT)), Geometry(16, 16), 4, 2, wait=wait)
    )
    next(stream)
    pids += stopped_workers()
    with pytest.raises(TrexError, match=rf"loader process ({pids[0]}|{pids[1]}) has made no batch in 2 s; it is"):
        list(islice(stream, 1000))
    began = time.monotonic()
    made.close()
    stream.close()
    assert time.monotonic() - began < 4
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.slow
def test_nothing_is_waited_for_while_a_stop_is_requested_and_no_batch_is_lost() -> None:
    stop = StopRequest()
    made = TrainingBatches(SPLIT, CROPS, seed=3, batch_size=64, rank=0, world=1, workers=1, wait=Wait(stop))
    stream = made.starting_at(0, 0)
    stop.signal_name = "SIGTERM"
    assert next(stream) is None, "the worker has only just started"
    stop.signal_name = None
    assert [(batch.epoch, batch.step) for batch in islice(stream, 3)] == [(0, 0), (0, 1), (0, 2)]
    made.close()


@pytest.mark.slow
def test_worker_that_cannot_hand_over_its_batch_ends() -> None:
    loader = DataLoader(
        Locks(), num_workers=1, multiprocessing_context=worker_context(1), worker_init_fn=start_worker, collate_fn=list
    )
    batches = iter(loader)
    began = time.monotonic()
    with pytest.raises(TrexError, match=r"loader process \d+ has ended because it could not hand over its batch"):
        next(received(batches, Wait()))
    assert time.monotonic() - began < 40
    end_workers(batches)


def test_batches_that_do_not_fit_into_the_shared_memory_are_refused_with_the_sizes() -> None:
    require_shared_memory(10**15, 0, 8, "train.batch_size")  # no workers
    require_shared_memory(1000, 2, 1, "train.batch_size")
    here = os.statvfs("/dev/shm")
    free = here.f_bavail * here.f_frsize
    batch = free // 12  # for two ranks, one worker fits, and two do not
    with pytest.raises(UserError, match=r"/dev/shm has .* MB free.* x 4 ahead x 2 loader processes x 2 ranks") as error:
        require_shared_memory(batch, 2, 2, "train.batch_size")
    assert "Set data.workers=1, reduce train.batch_size" in str(error.value)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As in a process that has no folder for its sockets yet."""
    monkeypatch.setattr(sockets, "_made", None)
    config = multiprocessing.process.current_process()._config
    monkeypatch.setitem(config, "tempdir", config.get("tempdir"))
    return monkeypatch


def test_sockets_get_a_short_private_folder_if_the_usual_one_is_too_long(fresh, tmp_path: Path) -> None:
    (tmp_path / ("x" * 125)).mkdir()
    fresh.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 125)))
    sockets.use_short_folder()
    folder = Path(multiprocessing.process.current_process()._config["tempdir"])
    assert (folder.parent, folder.stat().st_mode & 0o777) == (Path("/tmp"), 0o700)
    sockets.remove_folder()
    assert not folder.exists()


def test_error_says_what_to_set_if_there_is_no_short_folder(fresh, tmp_path: Path) -> None:
    (tmp_path / ("x" * 125)).mkdir()
    fresh.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 125)))
    fresh.setattr(sockets, "_SHORT", (str(tmp_path / "missing"),))
    with pytest.raises(UserError, match=r"TMPDIR is \S+, of \d+ bytes: .* at most 75 bytes .* Set TMPDIR to a shorter"):
        sockets.use_short_folder()
