"""Looking at every file of a dataset: which cannot be decoded, and which occur in both parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from trex.datasets.split import Split, SplitName
from trex.images.decode import ImageFault, read_rgb
from trex.interruption import leave_signals_to_parent

_CHUNK = 64  #: files that a process looks at in one go


@dataclass(frozen=True)
class FileCheck:
    """What one file turned out to be."""

    part: SplitName
    index: int
    problem: str  #: empty for an image that decodes
    digest: bytes  #: SHA-256 of the file


def check_files(splits: dict[SplitName, Split], processes: int) -> Iterator[FileCheck]:
    """Read and decode every file of the splits, in parallel; one result a file, in no particular order.

    Memory is bounded: only a few chunks are under way at any time. A file on which the decoder itself dies is named.
    """
    chunks = _chunks(splits)
    waiting = list(islice(chunks, 3 * processes))
    while waiting:
        broken: list[_Chunk] = []
        with ProcessPoolExecutor(processes, get_context("spawn"), leave_signals_to_parent) as pool:
            running: list[tuple[_Chunk, Future[list[tuple[str, bytes]]]]] = []
            while waiting or running:
                running += [(chunk, pool.submit(_look, chunk.paths)) for chunk in waiting]
                waiting = []
                chunk, future = running.pop(0)
                try:
                    yield from chunk.results(future.result())
                    waiting = list(islice(chunks, 1))
                except BrokenProcessPool:
                    broken = [chunk, *(other for other, _ in running)]
                    break
        for chunk in broken:
            yield from _one_by_one(chunk)
        waiting = waiting or list(islice(chunks, 3 * processes))


def duplicates(looked: dict[SplitName, dict[bytes, int]]) -> list[tuple[int, int]]:
    """Indices (trainval, test) of files with the same bytes.

    Args:
        looked: for each part the index of a file of each digest.
    """
    both = looked["trainval"].keys() & looked["test"].keys()
    return sorted((looked["trainval"][digest], looked["test"][digest]) for digest in both)


@dataclass(frozen=True)
class _Chunk:
    part: SplitName
    first: int
    paths: list[Path]

    def results(self, found: list[tuple[str, bytes]]) -> list[FileCheck]:
        return [FileCheck(self.part, self.first + i, problem, digest) for i, (problem, digest) in enumerate(found)]


def _chunks(splits: dict[SplitName, Split]) -> Iterator[_Chunk]:
    for part, split in splits.items():
        if split.folder is None:
            continue
        for first in range(0, len(split), _CHUNK):
            names = [split.name(i) for i in range(first, min(first + _CHUNK, len(split)))]
            yield _Chunk(part, first, [split.folder / name for name in names])


def _one_by_one(chunk: _Chunk) -> list[FileCheck]:
    """A process died over this chunk, or over another one that ran at the same time: each file gets its own."""
    found = []
    for path in chunk.paths:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            try:
                found += pool.submit(_look, [path]).result()
            except BrokenProcessPool:
                found.append(("the decoder died on it", b""))
    return chunk.results(found)


def _look(paths: list[Path]) -> list[tuple[str, bytes]]:
    found = []
    for path in paths:
        try:
            digest = hashlib.sha256(path.read_bytes()).digest()
            read_rgb(path)
            found.append(("", digest))
        except ImageFault as fault:
            found.append((fault.problem, b""))
        except OSError as error:
            found.append((error.strerror or str(error), b""))
    return found
