"""The blocks of an extraction: which images each has, and the files of the finished ones.

A split is divided into blocks that do not depend on the number of ranks. Each finished block has a file with the
indices of the images whose rows it has. The rows themselves are in their place of the future feature file, the *rows
file*, so that they go to the disk once. They are in the file of the block instead if images of it are skipped, because
then the places of all later rows are not known yet, or if the ranks are on several machines, where a network file
system may lose a part of what two machines write next to each other.

A block's file is written after its rows are on the disk, so a block that has a file is complete, also after a kill.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from trex.features.store import RowsDigest, reserve_rows, write_all
from trex.files import atomic_path, move, remove_leftovers, require_may_write
from trex.loading.evaluation import in_parts
from trex.records.feature_provenance import FeatureProvenance
from trex.storage import make_folder

MAX_BLOCK = 8192  #: the most images per block: a rank loses at most this work in an interruption
MIN_BLOCKS = 32  #: small datasets are divided into about this many blocks, so that all ranks get some


@dataclass(frozen=True)
class Blocks:
    """The blocks of `images` images."""

    folder: Path  #: of the files; its name depends on everything that determines their content
    images: int
    batch_size: int  #: images per batch of the encoder
    dim: int
    dtype: str  #: of the stored features

    @property
    def size(self) -> int:
        """Images per block: a multiple of the batch size, independent of the number of ranks."""
        wanted = min(math.ceil(self.images / MIN_BLOCKS), MAX_BLOCK)
        return math.ceil(wanted / self.batch_size) * self.batch_size

    @property
    def count(self) -> int:
        """Number of blocks."""
        return math.ceil(self.images / self.size)

    def batches(self, block: int) -> list[np.ndarray]:
        """The indices of the images of each batch of a block, int64."""
        images = np.arange(block * self.size, min((block + 1) * self.size, self.images))
        return in_parts(images, self.batch_size)

    def prepare(self, provenance: FeatureProvenance, in_place: bool, may_skip: bool) -> list[int]:
        """Create the folder and what else is missing there. Returns the blocks that are not finished.

        Args:
            provenance: of the feature file if no image is skipped.
            in_place: whether the rows that are written from now on go to their place in the rows file.
            may_skip: whether a block without some of its images is finished.
        """
        make_folder(self.folder)
        remove_leftovers(self.folder)
        rows = self.rows_file()
        finished = []
        for block in range(self.count):
            if not self._path(block).exists():
                continue
            kept, in_file = self._read(block)
            if len(kept) and not in_file and rows is None:
                self._path(block).unlink()  # the rows file was deleted
            elif may_skip or len(kept) == sum(map(len, self.batches(block))):
                finished.append(block)
        if in_place and rows is None:
            with atomic_path(self.folder / "rows") as temporary:
                offset = reserve_rows(temporary, (self.images, self.dim), provenance)
            move(self.folder / "rows", self.folder / f"rows-{offset}")
        return sorted({*range(self.count)} - {*finished})

    def rows_file(self) -> tuple[Path, int] | None:
        """The rows file, and where the rows begin in it, in bytes."""
        for path in self.folder.glob("rows-*"):
            if path.name.removeprefix("rows-").isdigit():
                return path, int(path.name.removeprefix("rows-"))
        return None

    def write(self, block: int, kept: np.ndarray, rows: np.ndarray, in_place: bool) -> None:
        """Write a finished block.

        Args:
            block: its number.
            kept: (n,) int64, the indices of the images whose rows it has.
            rows: (n, D) in the dtype of the file.
            in_place: whether its rows may go to their place in the rows file.
        """
        found = self.rows_file() if in_place and len(kept) == sum(map(len, self.batches(block))) else None
        if found is not None:
            path, offset = found
            require_may_write()
            with path.open("r+b", buffering=0) as file:
                file.seek(offset + block * self.size * rows.strides[0])
                write_all(file, np.ascontiguousarray(rows))
                os.fdatasync(file.fileno())
            rows = rows[:0]
        with atomic_path(self._path(block)) as temporary, temporary.open("wb") as opened:
            np.save(opened, kept)
            np.save(opened, rows)

    def kept(self) -> np.ndarray:
        """The indices of the images whose rows the blocks have, int64, in order. All blocks must be finished."""
        return np.concatenate([self._read(block)[0] for block in range(self.count)])

    def are_in_place(self) -> bool:
        """Whether no image is skipped, and the rows of all blocks are in their place in the rows file."""
        return len(self.kept()) == self.images and not any(self._read(block)[1] for block in range(self.count))

    def rows(self) -> Iterator[np.ndarray]:
        """The rows of each block, in order."""
        found = self.rows_file()
        for block in range(self.count):
            kept, in_file = self._read(block)
            if in_file or not len(kept):
                with self._path(block).open("rb") as file:
                    np.load(file, allow_pickle=False)
                    yield np.load(file, allow_pickle=False)
            else:
                assert found is not None, "prepare has deleted such blocks"
                begin = found[1] + block * self.size * self.dim * np.dtype(self.dtype).itemsize
                yield np.memmap(found[0], self.dtype, "r", begin, (len(kept), self.dim))

    def _path(self, block: int) -> Path:
        return self.folder / f"{block:06d}.npy"

    def _read(self, block: int) -> tuple[np.ndarray, bool]:
        """The indices in the file of a block, and whether it has the rows, too."""
        with self._path(block).open("rb") as file:
            kept: np.ndarray = np.load(file, allow_pickle=False)
            np.lib.format.read_magic(file)
            shape, *_ = np.lib.format.read_array_header_1_0(file)
        return kept, shape[0] > 0


class Writer:
    """Writes blocks in a thread, while the next ones are computed. Memory holds one block beside those.

    At the same time another thread hashes them. At the end of the context every block is on the disk.
    """

    def __init__(self, blocks: Blocks, in_place: bool) -> None:
        self._blocks, self._in_place = blocks, in_place
        self._threads = ThreadPoolExecutor(2)
        self._last: list[Future[None]] = []
        self._digest = RowsDigest((blocks.images, blocks.dim), blocks.dtype)
        self._hashed = 0  # blocks

    def write(self, block: int, kept: np.ndarray, rows: np.ndarray) -> None:
        """Begin to write a block, as `Blocks.write`. Raises the error of the block before it."""
        self.wait()
        self._last = [self._threads.submit(self._blocks.write, block, kept, rows, self._in_place)]
        if block == self._hashed:
            self._last.append(self._threads.submit(self._digest.update, rows))
            self._hashed += 1

    @property
    def digest(self) -> RowsDigest | None:
        """The digest of all rows; None if blocks were missing or not in order."""
        return self._digest if self._hashed == self._blocks.count else None

    def wait(self) -> None:
        """Wait until all blocks are on the disk. Raises the error of the last one."""
        last, self._last = self._last, []
        for one in last:
            one.result()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._threads.shutdown()
        if kind is None:
            self.wait()
