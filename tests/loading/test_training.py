"""Training batches depend on seed, epoch and step only, not on workers, ranks or the start."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trex.config.schema import CropsConfig, DataConfig
from trex.datasets.registry import load_split
from trex.images.crops import multi_crop
from trex.images.decode import ImageFault
from trex.images.finish import finish
from trex.images.preprocessing import Geometry
from trex.loading.evaluation import evaluation_batches
from trex.loading.training import Batch, TrainingBatches

CROPS = CropsConfig(global_size=16, local_size=8, local_count=2)


def batches(workers: int = 0, rank: int = 0, world: int = 1) -> TrainingBatches:
    split = load_split("digits_seen", "trainval", DataConfig())
    return TrainingBatches(split, CROPS, seed=3, batch_size=128, rank=rank, world=world, workers=workers)


def take(made: TrainingBatches, epoch: int, step: int, count: int) -> list[Batch]:
    try:
        return list(islice(made.starting_at(epoch, step), count))
    finally:
        made.close()


def same(a: Batch, b: Batch) -> bool:
    tensors = zip((*a.crops, a.labels), (*b.crops, b.labels), strict=True)
    return (a.epoch, a.step) == (b.epoch, b.step) and all(torch.equal(x, y) for x, y in tensors)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_crops_that_are_finished_later_have_the_same_bytes(workers: int) -> None:
    split = load_split("digits_seen", "trainval", DataConfig())
    unfinished = TrainingBatches(split, CROPS, 3, 128, 0, 1, workers, unfinished=True)
    for found, expected in zip(take(unfinished, 0, 0, 2), take(batches(), 0, 0, 2), strict=True):
        assert expected.draws == ()
        assert not same(found, expected)
        for crop, table in zip(found.crops, found.draws, strict=True):
            finish(crop, table)
        assert same(found, expected)


def test_an_epoch_shows_each_image_at_most_once_and_drops_the_incomplete_batch() -> None:
    made = batches()
    epoch = list(islice(made.sample_indices(0, 0), made.steps_per_epoch))
    images = [index for batch in epoch for _, index in batch]
    assert made.steps_per_epoch == 1014 // 128
    assert len(set(images)) == len(images) == made.steps_per_epoch * 128


def test_starting_at_any_step_gives_the_batches_of_an_uninterrupted_pass() -> None:
    uninterrupted = take(batches(), 0, 5, 4)  # continues into epoch 1
    assert [(b.epoch, b.step) for b in uninterrupted] == [(0, 5), (0, 6), (1, 0), (1, 1)]
    for batch in uninterrupted:
        assert same(take(batches(), batch.epoch, batch.step, 1)[0], batch)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(workers: int) -> None:
    without, with_workers = take(batches(0), 0, 5, 4), take(batches(workers), 0, 5, 4)
    assert all(same(a, b) for a, b in zip(without, with_workers, strict=True))


def test_batches_of_all_ranks_together_are_the_batch_of_one_process() -> None:
    single = take(batches(), 0, 0, 1)[0]
    parts = [take(batches(rank=rank, world=2), 0, 0, 1)[0] for rank in range(2)]
    assert torch.equal(torch.cat([part.labels for part in parts]), single.labels)
    for resolution, crops in enumerate(single.crops):
        by_crop = [part.crops[resolution].unflatten(0, (-1, 64)) for part in parts]
        assert torch.equal(torch.cat(by_crop, dim=1).flatten(0, 1), crops)


def test_crops_are_crop_major_and_global_crops_first() -> None:
    """Row c * B + i of a resolution is crop c of image i."""
    made = batches()
    batch = take(made, 0, 0, 1)[0]
    assert [crops.shape for crops in batch.crops] == [(128, 3, 16, 16), (256, 3, 8, 8)]
    for i in (0, 1, 127):
        epoch, index = next(made.sample_indices(0, 0))[i]
        global_crops, local_crops = multi_crop(made.split.read(index), CROPS, 3, epoch, index)
        assert batch.labels[i] == made.split.labels[index]
        assert np.array_equal(batch.crops[0][i], global_crops[0])
        assert all(np.array_equal(batch.crops[1][c * 128 + i], local_crops[c]) for c in range(2))


def status(pid: int) -> dict[str, str]:
    """Return the fields of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_workers_are_forked_by_a_server_without_the_threads_of_this_process(kind: str) -> None:
    """A fork of this process could wait forever for a lock that one of its threads held."""
    made = batches(workers=1)
    stream = (
        made.starting_at(0, 0)
        if kind == "training"
        else evaluation_batches(made.split, range(4), Geometry(16, 16), 2, 1)
    )
    next(stream)
    (worker,) = multiprocessing.active_children()
    server = int(status(worker.pid)["PPid"])
    assert server != os.getpid()
    assert int(status(server)["PPid"]) == os.getpid()
    assert not {task.joinpath("comm").read_text().strip() for task in Path(f"/proc/{server}/task").iterdir()} - {
        "python"
    }
    blocked = int(status(server)["SigBlk"], 16)
    assert all(blocked >> (number - 1) & 1 for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2))
    stream.close()
    made.close()


@pytest.mark.slow
def test_workers_ignore_stop_signals() -> None:
    made = batches(workers=2)
    stream = made.starting_at(0, 0)
    next(stream)
    workers = [worker.pid for worker in made._batches._workers]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        for pid in workers:
            os.kill(pid, number)
    time.sleep(0.2)
    assert len(list(islice(stream, 12))) == 12
    made.close()
    time.sleep(0.2)
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_is_an_error_that_names_the_file(tmp_path, workers: int) -> None:
    for split in ("train", "val"):
        (tmp_path / "mine" / split / "a").mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (20, 20)).save(tmp_path / "mine" / split / "a" / f"{i}.jpg")
    (tmp_path / "mine/train/a/2.jpg").write_bytes(b"")
    split = load_split("mine", "trainval", DataConfig(root=str(tmp_path)))
    made = TrainingBatches(split, CROPS, 0, 4, 0, 1, workers)
    with pytest.raises(ImageFault, match=r"^\S+train/a/2.jpg: not a readable image \(the file is empty\)"):
        next(made.starting_at(0, 0))
    with pytest.raises(ImageFault, match=r"2.jpg"):
        list(evaluation_batches(split, range(4), Geometry(16, 16), 4, workers))
    made.close()
