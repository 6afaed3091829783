"""Extracts the features of a dataset with a frozen encoder: each image once, in the dataset's order, with 1 … N ranks.

A split is divided into blocks that do not depend on the number of ranks. Each finished block is a file in a folder, and
the name of the folder is a digest of everything that determines the content. So an interrupted extraction continues
with the missing blocks, also with another number of ranks, and never uses blocks of another encoder or dataset. Rank 0
joins the blocks into the feature file.

With `data.broken_images=skip`, a broken image has no row. Each block names the images whose rows it has.
"""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import torch

from trex.config.schema import Config
from trex.datasets.split import Split
from trex.distributed import Ranks
from trex.errors import Interrupted, UserError
from trex.features.index import other_features, read_index
from trex.features.origin import describe_transform, unwanted_skips
from trex.features.source import Source, make_source
from trex.features.store import write_features
from trex.files import atomic_path, remove_leftovers
from trex.images.decode import ImageFault
from trex.interruption import StopRequest
from trex.loading.evaluation import EvaluationBatch, evaluation_batches
from trex.loading.listing import list_splits
from trex.loading.shared_memory import require_shared_memory
from trex.loading.staging import Staging
from trex.loading.workers import Wait, take
from trex.records.feature_provenance import FeatureProvenance, names_digest
from trex.records.run_dir import RunDir
from trex.storage import make_folder
from trex.training.space import require_place
from trex.wording import counted, duration

log = logging.getLogger(__name__)

MAX_BLOCK = 8192  #: the most images per block: a rank loses at most this work in an interruption
MAX_NAMED = 20  #: the most images that an error message names
_BLOCK_FORMAT = ", 2"  #: two arrays, the indices of the images and their rows
MIN_BLOCKS = 32  #: small datasets are divided into about this many blocks, so that all ranks get some


def extract(
    run: RunDir, config: Config, dataset: str, ranks: Ranks, stop: StopRequest, staging: Staging | None = None
) -> None:
    """Write both feature files of a dataset. Existing files with the wanted features are kept.

    Raises:
        UserError: if an existing file has features of another encoder, dataset or transform; or if images cannot be
            read, after all blocks without such images are done.
        Interrupted: after a signal; finished blocks are kept, and the same call continues with the missing ones.
    """
    source = make_source(run, config, ranks)
    ranks.check(stop)
    splits = list_splits(dataset, config.data, ranks, stop, staging)
    for name, split in splits.items():
        target = run.features(dataset, name)
        wanted = _provenance(run, config, split, source)
        may_skip = config.data.broken_images == "skip"
        if ranks.on_main(partial(_is_done, target, wanted, may_skip)):
            log.info("%s %s: the features exist already, from the same weights", dataset, name)
            continue
        _Extraction(config, split, source, wanted, target, ranks, stop).run()


def _provenance(run: RunDir, config: Config, split: Split, source: Source) -> FeatureProvenance:
    return FeatureProvenance(
        run=run.name,
        dataset=split.dataset,
        split=split.split_name,
        split_digest=split.digest,
        encoder_digest=source.digest,
        weights=source.weights,
        transform=describe_transform(config),
        dtype=config.extract.dtype,
        comparable=split.comparable,
        versions={"torch": torch.__version__, "torchvision": version("torchvision"), "h5py": h5py.__version__},
    )


def _is_done(target: Path, wanted: FeatureProvenance, may_skip: bool) -> bool:
    """Whether the file exists and has the wanted features. Raises UserError if it has other features."""
    if not target.exists():
        return False
    found = read_index(target).provenance
    if differences := [*wanted.differences(found), *unwanted_skips(found, may_skip)]:
        raise other_features(target, differences)
    return True


@dataclass(frozen=True)
class _Extraction:
    """Extracts one feature file."""

    config: Config
    split: Split
    source: Source
    provenance: FeatureProvenance
    target: Path
    ranks: Ranks
    stop: StopRequest

    def run(self) -> None:
        """Compute the missing blocks, then join all blocks into the file. Both together must have place on the disk."""
        start = time.monotonic()
        missing = self.ranks.on_main(self.missing_blocks)
        self.require_shared_memory()
        size = len(self.split) * self.source.dim * np.dtype(self.config.extract.dtype).itemsize
        needed = size + size * len(missing) // self.block_count
        require_place(f"the features of {self.label}", self.target.parent, needed, len(missing) + 2, self.ranks)
        if len(missing) < self.block_count:
            log.info("%s: %d of %d blocks exist already", self.label, self.block_count - len(missing), self.block_count)
        faults: list[ImageFault] = []
        for first in range(0, len(missing), self.ranks.world):
            mine = first + self.ranks.rank
            faults += self.make_block(missing[mine] if mine < len(missing) else None)
            self.log_progress(min(first + self.ranks.world, len(missing)), len(missing), start)
        self.refuse_faults(
            [
                line
                for text in self.ranks.gather_texts("\n".join(fault.brief for fault in faults))
                for line in text.split("\n")
            ]
        )
        self.ranks.on_main(self.join_blocks)

    def require_shared_memory(self) -> None:
        """Raise UserError if the batches of the loader processes do not fit into the shared memory."""
        batch = self.config.extract.batch_size * 3 * self.source.preprocessing.geometry.crop**2
        require_shared_memory(batch, self.config.data.workers, self.ranks.count_here(), "extract.batch_size")

    def join_blocks(self) -> None:
        """Write the feature file and delete the blocks. Raises UserError if no image could be read."""
        kept = np.concatenate([_kept(self.path(block)) for block in range(self.block_count)])
        if not len(kept):
            raise UserError(f"{self.label}: no image can be read")
        skipped = [self.split.name(i) for i in np.setdiff1d(np.arange(len(self.split)), kept)]
        provenance = replace(self.provenance, skipped=len(skipped), skipped_digest=names_digest(skipped))
        shape, names = (len(kept), self.source.dim), [self.split.name(i) for i in kept]
        labels, classes = self.split.labels[kept], self.split.classes
        write_features(self.target, self.blocks(), shape, labels, names, classes, provenance, skipped)
        for folder in self.target.parent.glob(f".{self.split.split_name}.parts-*"):
            shutil.rmtree(folder)
        if skipped:
            log.warning("%s: %s skipped, see 'skipped' in the file", self.label, counted(len(skipped), "broken image"))
        log.info("%s: wrote %s", self.label, self.target)

    @property
    def label(self) -> str:
        return f"{self.split.dataset} {self.split.split_name}"

    @property
    def block_size(self) -> int:
        """Images per block: a multiple of the batch size, independent of the number of ranks."""
        batch = self.config.extract.batch_size
        wanted = min(math.ceil(len(self.split) / MIN_BLOCKS), MAX_BLOCK)
        return math.ceil(wanted / batch) * batch

    @property
    def block_count(self) -> int:
        return math.ceil(len(self.split) / self.block_size)

    @property
    def folder(self) -> Path:
        """The folder of the finished blocks; its name is a digest of everything that determines their content."""
        made_by = self.provenance
        parts = f"{made_by.split_digest}{made_by.encoder_digest}{made_by.transform}{made_by.dtype}{self.block_size}"
        parts += _BLOCK_FORMAT
        key = hashlib.sha256(parts.encode()).hexdigest()[:16]
        return self.target.parent / f".{self.split.split_name}.parts-{key}"

    def path(self, block: int) -> Path:
        return self.folder / f"{block:06d}.npy"

    def missing_blocks(self) -> list[int]:
        make_folder(self.folder)
        remove_leftovers(self.folder)
        remove_leftovers(self.target.parent)
        return [block for block in range(self.block_count) if not self.is_finished(block)]

    def is_finished(self, block: int) -> bool:
        """Whether the block exists and has all its images, or may lack broken ones."""
        path = self.path(block)
        return path.exists() and (self.may_skip or len(_kept(path)) == len(self.images_of(block)))

    @property
    def may_skip(self) -> bool:
        return self.config.data.broken_images == "skip"

    def images_of(self, block: int) -> np.ndarray:
        """The indices of the block's images, int64."""
        return np.arange(block * self.block_size, min((block + 1) * self.block_size, len(self.split)))

    def make_block(self, block: int | None) -> list[ImageFault]:
        """Compute and write one block. If an image cannot be read, return it instead and write nothing.

        After each batch all ranks decide together whether to stop, so that all of them end after a signal. A rank
        without a block (None), or with an image that cannot be read, takes part only in these decisions.
        """
        settings = self.config.extract
        batches = self.batches(np.zeros(0, np.int64) if block is None else self.images_of(block))
        kept: list[np.ndarray] = [np.zeros(0, np.int64)]
        rows: list[np.ndarray] = [np.zeros((0, self.source.dim), settings.dtype)]
        faults: list[ImageFault] = []
        unusable = ""
        for _ in range(self.block_size // settings.batch_size):
            batch, problem = None, None
            if block is not None and not faults:
                batch, problem = take(batches)
                if isinstance(problem, ImageFault):
                    log.warning("%s: %s", self.label, problem)
                    faults.append(problem)
                    problem = None
            if batch is not None and len(batch[0]):
                images = batch[0].to(self.ranks.device, non_blocking=True)
                computed = self.source.features(images).cpu().numpy()
                with np.errstate(over="ignore"):
                    rows.append(computed.astype(settings.dtype))
                kept.append(batch[2].numpy())
                unusable = self.fault_of(computed, rows[-1], kept[-1])
            if agreed := self.ranks.agree(2 if unusable else int(bool(self.stop)), problem):
                batches.close()
                if agreed == 2:
                    raise UserError(next(filter(None, self.ranks.gather_texts(unusable))))
                raise Interrupted(
                    f"{self.label}: stopped; finished blocks are kept. Run the same command again to continue."
                )
        if block is not None and not faults:
            with atomic_path(self.path(block)) as temporary, temporary.open("wb") as file:
                np.save(file, np.concatenate(kept))
                np.save(file, np.concatenate(rows))
        return faults

    def fault_of(self, computed: np.ndarray, stored: np.ndarray, indices: np.ndarray) -> str:
        """Why features cannot be stored: the message, or an empty text if all are finite.

        Args:
            computed: (n, D) float32, from the encoder.
            stored: the same in the dtype of the file.
            indices: (n,) int64, the images.
        """
        bad = np.flatnonzero(~np.isfinite(stored).all(1))
        if not len(bad):
            return ""
        image = f"{self.label}: the feature of {self.split.name(int(indices[bad[0]]))}"
        if np.isfinite(computed[bad[0]]).all():
            largest = np.abs(computed[bad[0]]).max()
            return (
                f"{image} has the number {largest:.3g}, and float16 ends at 65504. Nothing of this block is kept. "
                "Set extract.dtype=float32."
            )
        return (
            f"{image} is not finite (NaN or infinite). Nothing of this block is kept. The weights are those of "
            f"{self.source.weights}: has their training diverged, or are they for another preprocessing?"
        )

    def batches(self, indices: np.ndarray) -> Generator[EvaluationBatch | None, None, None]:
        """The images `indices`, without broken ones if these may be skipped."""
        geometry, workers = self.source.preprocessing.geometry, self.config.data.workers
        on_broken = self.log_broken if self.may_skip else None
        wait = Wait(self.stop, lambda: self.ranks.limit.seconds)
        return evaluation_batches(
            self.split, indices, geometry, self.config.extract.batch_size, workers, on_broken, wait
        )

    def log_broken(self, fault: ImageFault) -> None:
        log.warning("%s: broken image skipped: %s", self.label, fault.brief)

    def refuse_faults(self, named: Sequence[str]) -> None:
        """Raise UserError on all ranks if there are images that cannot be read."""
        lines = [f"  {line}" for line in named if line]
        if lines:
            shown = [*lines[:MAX_NAMED], *(["  …"] if len(lines) > MAX_NAMED else [])]
            raise UserError(
                f"{self.label}: images that cannot be read, the first one in each of {len(lines)} blocks:\n"
                + "\n".join(shown)
                + f"\nAll other blocks are kept. `trex data check {self.split.dataset}` lists all damaged images. "
                "Restore them, and run the same command again. Or skip those that are damaged, and mark the results: "
                "data.broken_images=skip"
            )

    def blocks(self) -> Iterator[np.ndarray]:
        for block in range(self.block_count):
            with self.path(block).open("rb") as file:
                np.load(file, allow_pickle=False)
                yield np.load(file, allow_pickle=False)

    def log_progress(self, done: int, total: int, start: float) -> None:
        seconds = time.monotonic() - start
        images = min(done * self.block_size, len(self.split))
        left = duration(seconds / done * (total - done))
        log.info("%s: block %d/%d, %.0f images/s, %s left", self.label, done, total, images / max(seconds, 1e-9), left)


def _kept(path: Path) -> np.ndarray:
    """The indices of the images whose rows a block has, int64."""
    with path.open("rb") as file:
        kept: np.ndarray = np.load(file, allow_pickle=False)
    return kept
