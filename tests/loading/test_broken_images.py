"""A broken image ends the work or is left out, as asked; the same in every rank, worker and resumed run."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.pictures import write_digits
from trex.config.schema import CropsConfig, DataConfig
from trex.datasets.registry import load_split
from trex.datasets.split import Split
from trex.images.crops import multi_crop
from trex.images.decode import ImageFault
from trex.images.preprocessing import Geometry
from trex.loading.evaluation import evaluation_batches
from trex.loading.training import Batch, TrainingBatches

CROPS = CropsConfig(global_size=16, local_size=8, local_count=2)
BROKEN = (0, 5, 6, 41)  #: indices; 41 is the last image, so the first readable one, 1, takes its place


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """42 real digits, of which four files are cut after 30 bytes."""
    write_digits(tmp_path / "mine", train=6, val=1)
    found = load_split("mine", "trainval", DataConfig(root=str(tmp_path)))
    for index in BROKEN:
        path = tmp_path / "mine" / found.name(index)
        path.write_bytes(path.read_bytes()[:30])
    return found


def epoch(split: Split, rank: int = 0, world: int = 1, workers: int = 0, step: int = 0) -> list[Batch]:
    made = TrainingBatches(split, CROPS, 3, 14, rank, world, workers, skip_broken=True)
    try:
        return list(islice(made.starting_at(0, step), 3 - step))
    finally:
        made.close()


def test_next_image_that_can_be_read_takes_the_place_of_a_broken_one(split: Split) -> None:
    sampler = TrainingBatches(split, CROPS, 3, 14, 0, 1, 0).sample_indices(0, 0)
    order = [index for batch in islice(sampler, 3) for _, index in batch]
    takes = {0: 1, 5: 7, 6: 7, 41: 1}
    found = epoch(split)
    labels = torch.cat([batch.labels for batch in found]).tolist()
    assert labels == [int(split.labels[takes.get(i, i)]) for i in order]
    for batch, indices in zip(found, (order[:14], order[14:28], order[28:]), strict=True):
        for row, index in enumerate(indices):
            rgb = split.read(takes.get(index, index), fast=True)
            expected = multi_crop(rgb, CROPS, 3, 0, index)
            assert np.array_equal(batch.crops[0][row], expected[0][0]), "with the augmentation of the broken image"
    named = {str(fault.path) for batch in found for fault in batch.broken}
    assert named == {str(split.folder / split.name(i)) for i in BROKEN}


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip((*a.crops, a.labels), (*b.crops, b.labels), strict=True))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_batches_with_broken_images_do_not_depend_on_ranks_workers_or_the_start(split: Split, workers: int) -> None:
    whole = epoch(split)
    assert all(same(a, b) for a, b in zip(epoch(split, workers=workers, step=1), whole[1:], strict=True))
    ranks = [epoch(split, rank, 2, workers) for rank in range(2)]
    for batch, first, second in zip(whole, *ranks, strict=True):
        assert torch.equal(batch.labels, torch.cat([first.labels, second.labels]))
        assert torch.equal(batch.crops[0], torch.cat([first.crops[0], second.crops[0]]))
        assert [str(f.path) for f in batch.broken] == [str(f.path) for f in (*first.broken, *second.broken)]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_evaluation_leaves_broken_images_out_and_a_batch_may_be_empty(split: Split, workers: int) -> None:
    faults: list[ImageFault] = []
    found = list(evaluation_batches(split, [5, 6, 7, 41, 3], Geometry(16, 16), 2, workers, faults.append))
    assert [batch[2].tolist() for batch in found] == [[], [7], [3]]
    assert [len(batch[0]) for batch in found] == [0, 1, 1]
    assert found[0][0].shape == (0, 3, 16, 16)
    assert [str(fault.path) for fault in faults] == [str(split.folder / split.name(i)) for i in (5, 6, 41)]


def test_missing_file_is_an_error_also_where_broken_images_are_skipped(split: Split) -> None:
    assert split.folder is not None
    (split.folder / split.name(8)).unlink()
    with pytest.raises(ImageFault, match="there is no such file"):
        epoch(split)
    with pytest.raises(ImageFault, match="there is no such file"):
        list(evaluation_batches(split, range(42), Geometry(16, 16), 4, 0, lambda _: None))


def test_split_of_broken_images_only_is_an_error(split: Split) -> None:
    assert split.folder is not None
    for index in range(42):
        (split.folder / split.name(index)).write_bytes(b"")
    with pytest.raises(ImageFault, match="the file is empty"):
        epoch(split)
