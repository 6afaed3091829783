"""Extracts the features of a dataset with a frozen encoder: each image once, in the dataset's order, with 1 … N ranks.

A split is divided into blocks (trex/features/blocks.py). The files of the finished ones are in a folder whose name is a
digest of everything that determines the content. So an interrupted extraction continues with the missing blocks, also
with another number of ranks, and never uses blocks of another encoder or dataset. Each rank loads the images of all its
missing blocks with one set of loader processes. Rank 0 makes the blocks a feature file.

With `data.broken_images=skip`, a broken image has no row. Each block names the images whose rows it has.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import torch

from trex.config.schema import Config
from trex.datasets.split import Split
from trex.distributed import Ranks
from trex.errors import Interrupted, TrexError, UserError
from trex.features.blocks import Blocks, Writer
from trex.features.encoding import Encoding, exact_float32
from trex.features.index import other_features, read_index
from trex.features.origin import describe_transform, unwanted_skips
from trex.features.source import Source, make_source
from trex.features.store import Contents, RowsDigest, complete_rows, write_features
from trex.files import remove_leftovers
from trex.images.decode import ImageFault
from trex.interruption import StopRequest
from trex.loading.evaluation import Part, evaluation_parts, in_parts
from trex.loading.listing import list_splits
from trex.loading.shared_memory import PART, part_bytes, require_shared_memory
from trex.loading.staging import Staging
from trex.loading.workers import Wait, take, worker_context
from trex.records.feature_provenance import FeatureProvenance, names_digest
from trex.records.run_dir import RunDir
from trex.training.space import require_place
from trex.wording import counted, duration

log = logging.getLogger(__name__)

MAX_NAMED = 20  #: the most images that an error message names
_BLOCK_FORMAT = ", 3"  #: rows in their place of the feature file


def extract(
    run: RunDir, config: Config, dataset: str, ranks: Ranks, stop: StopRequest, staging: Staging | None = None
) -> None:
    """Write both feature files of a dataset. Existing files with the wanted features are kept.

    Raises:
        UserError: if an existing file has features of another encoder, dataset or transform; or if images cannot be
            read, after all blocks without such images are done.
        Interrupted: after a signal; finished blocks are kept, and the same call continues with the missing ones.
    """
    worker_context(config.data.workers)  # its server imports what the loader processes need, while the encoder is read
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
        with exact_float32():
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
        versions={
            "torch": torch.__version__,
            "torchvision": version("torchvision"),
            "h5py": h5py.__version__,
            "tf32": "off",
        },
    )


def _is_done(target: Path, wanted: FeatureProvenance, may_skip: bool) -> bool:
    """Whether the file exists and has the wanted features. Raises UserError if it has other features."""
    if not target.exists():
        return False
    found = read_index(target).provenance
    if differences := [*wanted.differences(found), *unwanted_skips(found, may_skip)]:
        raise other_features(target, differences)
    return True


@dataclass
class _Computed:
    """The part of a block that is computed."""

    block: int
    kept: list[np.ndarray]
    rows: list[np.ndarray]
    fault: ImageFault | None = None  #: the first image that cannot be read; then nothing of the block is kept


@dataclass(frozen=True)
class _Batch:
    """A batch that has been started."""

    of: _Computed
    indices: np.ndarray  #: (n,) int64, the images that could be read
    fetch: Callable[[], np.ndarray] | None  #: returns the features; None if there are none
    is_last: bool  #: of its block


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
        """Compute the missing blocks, then make all blocks the file. Both together must have place on the disk."""
        in_place = self.ranks.count_here() == self.ranks.world
        missing = self.ranks.on_main(partial(self.prepare, in_place))
        self.require_shared_memory()
        count, size = (
            self.blocks.count,
            len(self.split) * self.source.dim * np.dtype(self.config.extract.dtype).itemsize,
        )
        needed = size * len(missing) // count + (0 if in_place and not self.may_skip else size)
        require_place(f"the features of {self.label}", self.target.parent, needed, len(missing) + 3, self.ranks)
        if len(missing) < count:
            log.info("%s: %d of %d blocks exist already", self.label, count - len(missing), count)
        faults, digest = self.compute(missing, in_place)
        self.refuse_faults(
            [
                line
                for text in self.ranks.gather_texts("\n".join(fault.brief for fault in faults))
                for line in text.split("\n")
            ]
        )
        self.ranks.on_main(partial(self.make_file, digest))

    def prepare(self, in_place: bool) -> list[int]:
        remove_leftovers(self.target.parent)
        return self.blocks.prepare(self.provenance, in_place, self.may_skip)

    def require_shared_memory(self) -> None:
        """Raise UserError if the parts that the loader processes make ahead do not fit into the shared memory."""
        part = part_bytes(self.config.extract.batch_size, self.source.preprocessing.geometry.crop)
        require_shared_memory(part, self.config.data.workers, self.ranks.count_here(), "extract.batch_size")

    def make_file(self, digest: RowsDigest | None) -> None:
        """Make the blocks the feature file, and delete them. Raises UserError if no image could be read.

        `digest` has seen all rows, or is None.
        """
        kept = self.blocks.kept()
        if not len(kept):
            raise UserError(f"{self.label}: no image can be read")
        skipped = [self.split.name(i) for i in np.setdiff1d(np.arange(len(self.split)), kept)]
        contents = self.contents_of(kept, skipped)
        found = self.blocks.rows_file() if self.blocks.are_in_place() else None
        if found is None or not complete_rows(self.target, *found, contents, digest):
            write_features(self.target, self.blocks.rows(), contents)
        for folder in self.target.parent.glob(f".{self.split.split_name}.parts-*"):
            shutil.rmtree(folder)
        if skipped:
            log.warning("%s: %s skipped, see 'skipped' in the file", self.label, counted(len(skipped), "broken image"))
        log.info("%s: wrote %s", self.label, self.target)

    def contents_of(self, kept: np.ndarray, skipped: list[str]) -> Contents:
        provenance = replace(self.provenance, skipped=len(skipped), skipped_digest=names_digest(skipped))
        shape, names = (len(kept), self.source.dim), [self.split.name(i) for i in kept]
        return Contents(shape, self.split.labels[kept], names, self.split.classes, provenance, skipped)

    @property
    def label(self) -> str:
        return f"{self.split.dataset} {self.split.split_name}"

    @cached_property
    def blocks(self) -> Blocks:
        settings, made_by = self.config.extract, self.provenance
        blocks = Blocks(self.target.parent, len(self.split), settings.batch_size, self.source.dim, settings.dtype)
        parts = f"{made_by.split_digest}{made_by.encoder_digest}{made_by.transform}{made_by.dtype}{blocks.size}"
        key = hashlib.sha256((parts + _BLOCK_FORMAT).encode()).hexdigest()[:16]
        return replace(blocks, folder=self.target.parent / f".{self.split.split_name}.parts-{key}")

    @property
    def may_skip(self) -> bool:
        return self.config.data.broken_images == "skip"

    def compute(self, missing: list[int], in_place: bool) -> tuple[list[ImageFault], RowsDigest | None]:
        """Compute and write the missing blocks.

        Returns the first image of each block that cannot be read, if there is one; and the digest of the rows, if this
        rank has computed all of them.

        After each batch all ranks decide together whether to stop, so that all of them end after a signal. A rank
        without a block takes part only in these decisions. The features of a batch are looked at after the next one
        was started.
        """
        world, start = self.ranks.world, time.monotonic()
        mine = missing[self.ranks.rank :: world]
        steps = self.blocks.size // self.blocks.batch_size
        encoding, faults = Encoding(self.source.features, self.ranks.device), []
        with contextlib.closing(self.parts(mine)) as parts, Writer(self.blocks, in_place) as writer:
            before: _Batch | None = None
            for number in range(math.ceil(len(missing) / world)):
                block = mine[number] if number < len(mine) else None
                batches = [] if block is None else self.blocks.batches(block)
                made = _Computed(-1 if block is None else block, [], [])
                for step in range(steps):
                    now, problem = None, None
                    if step < len(batches):
                        now, problem = self.start(parts, made, batches[step], step == len(batches) - 1, encoding)
                    unusable = self.finish(before, writer)
                    before = now
                    self.decide(unusable, problem, before, writer)
                faults += [made.fault] if made.fault else []
                self.log_progress(min((number + 1) * world, len(missing)), len(missing), start)
            self.decide(self.finish(before, writer), None, None, writer)
        return faults, writer.digest

    def start(
        self, parts: Iterator[Part | None], of: _Computed, wanted: np.ndarray, is_last: bool, encoding: Encoding
    ) -> tuple[_Batch | None, TrexError | None]:
        """Load a batch and start its computation. Returns the error that came instead, for all ranks.

        Returns neither while a stop is requested, if the batch would have to be waited for.
        """
        found: list[Part] = []
        for _ in in_parts(wanted, PART):
            part, problem = take(parts)
            if part is None:
                return None, problem
            for fault in part.faults:
                if self.may_skip and fault.broken:
                    log.warning("%s: broken image skipped: %s", self.label, fault.brief)
                elif of.fault is None:
                    log.warning("%s: %s", self.label, fault)
                    of.fault = fault
            if len(part.images):
                found.append(part)
        if of.fault or not found:
            return _Batch(of, np.zeros(0, np.int64), None, is_last), None
        indices = torch.cat([part.indices for part in found]).numpy()
        return _Batch(of, indices, encoding.start([part.images for part in found]), is_last), None

    def finish(self, batch: _Batch | None, writer: Writer) -> str:
        """Take the features of a batch, and write its block after the last one. Returns why they cannot be stored."""
        if batch is None or batch.of.fault:
            return ""
        of = batch.of
        if batch.fetch is not None:
            computed = batch.fetch()
            with np.errstate(over="ignore"):
                of.rows.append(computed.astype(self.config.extract.dtype))
            of.kept.append(batch.indices)
            if unusable := self.fault_of(computed, of.rows[-1], batch.indices):
                return unusable
        if batch.is_last:
            kept = np.concatenate([np.zeros(0, np.int64), *of.kept])
            rows = np.concatenate([np.zeros((0, self.source.dim), self.config.extract.dtype), *of.rows])
            writer.write(of.block, kept, rows)
        return ""

    def decide(self, unusable: str, problem: TrexError | None, begun: _Batch | None, writer: Writer) -> None:
        """End on every rank if one has features that cannot be stored, a problem, or was asked to stop.

        `begun` is the batch that is being computed. If it ends its block, that block is still written.
        """
        agreed = self.ranks.agree(2 if unusable else int(bool(self.stop)), problem)
        if agreed == 2:
            raise UserError(next(filter(None, self.ranks.gather_texts(unusable))))
        if agreed:
            self.finish(begun, writer)
            writer.wait()
            raise Interrupted(
                f"{self.label}: stopped; finished blocks are kept. Run the same command again to continue."
            )

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
            + (" fp16 ends at 65504: try extract.precision=bf16." if self.config.extract.precision == "fp16" else "")
        )

    def parts(self, blocks: Sequence[int]) -> Generator[Part | None, None, None]:
        """The images of all batches of `blocks`, a batch in several parts, from one set of loader processes."""
        geometry, workers = self.source.preprocessing.geometry, self.config.data.workers
        lists = [part for block in blocks for batch in self.blocks.batches(block) for part in in_parts(batch, PART)]
        return evaluation_parts(self.split, lists, geometry, workers, Wait(self.stop, lambda: self.ranks.limit.seconds))

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

    def log_progress(self, done: int, total: int, start: float) -> None:
        seconds = time.monotonic() - start
        images = min(done * self.blocks.size, len(self.split))
        left = duration(seconds / done * (total - done))
        log.info("%s: block %d/%d, %.0f images/s, %s left", self.label, done, total, images / max(seconds, 1e-9), left)
