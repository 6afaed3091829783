"""Every image of a dataset, checked: which cannot be decoded, and which occur in both splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from trex.datasets.record import Images
from trex.datasets.split import Split, SplitName
from trex.images.decode import ImageFault, read_rgb
from trex.interruption import leave_signals_to_parent

_CHUNK = 64  #: images that a process checks in one call


Source = Path | tuple[Images, int]  #: a file, or images and the index of one of them


@dataclass(frozen=True)
class FileCheck:
    """What was found out about one image."""

    part: SplitName
    index: int
    problem: str  #: empty for an image that decodes
    digest: bytes  #: SHA-256 of the file, or of the pixels where the image is not a file


def check_files(splits: dict[SplitName, Split], processes: int) -> Iterator[FileCheck]:
    """Read and decode every image of the splits, in parallel; one result per image, in no particular order.

    Memory is bounded: only a few chunks are in work at any time. An image on which the decoder itself crashes is named.
    """
    chunks = _chunks(splits)
    waiting = list(islice(chunks, 3 * processes))
    while waiting:
        broken: list[_Chunk] = []
        with ProcessPoolExecutor(processes, get_context("spawn"), leave_signals_to_parent) as pool:
            running: list[tuple[_Chunk, Future[list[tuple[str, bytes]]]]] = []
            while waiting or running:
                running += [(chunk, pool.submit(_check, chunk.sources)) for chunk in waiting]
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


def duplicates(checked: dict[SplitName, dict[bytes, int]]) -> list[tuple[int, int]]:
    """Indices (trainval, test) of images with the same digest.

    Args:
        checked: for each split, the index of an image of each digest.
    """
    both = checked["trainval"].keys() & checked["test"].keys()
    return sorted((checked["trainval"][digest], checked["test"][digest]) for digest in both)


@dataclass(frozen=True)
class _Chunk:
    part: SplitName
    first: int
    sources: list[Source]

    def results(self, found: list[tuple[str, bytes]]) -> list[FileCheck]:
        return [FileCheck(self.part, self.first + i, problem, digest) for i, (problem, digest) in enumerate(found)]


def _chunks(splits: dict[SplitName, Split]) -> Iterator[_Chunk]:
    for part, split in splits.items():
        if split.folder is None:
            continue
        for first in range(0, len(split), _CHUNK):
            indices = range(first, min(first + _CHUNK, len(split)))
            if split.images is None:
                yield _Chunk(part, first, [split.folder / split.name(i) for i in indices])
            else:
                yield _Chunk(part, first, [(split.images, i) for i in indices])


def _one_by_one(chunk: _Chunk) -> list[FileCheck]:
    """A process ended in this chunk, or in another one that ran at the same time: each image gets its own process."""
    found = []
    for source in chunk.sources:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            try:
                found += pool.submit(_check, [source]).result()
            except BrokenProcessPool:
                found.append(("the decoder crashed on it", b""))
    return chunk.results(found)


def _check(sources: list[Source]) -> list[tuple[str, bytes]]:
    found = []
    for source in sources:
        try:
            found.append(("", _digest(source)))
        except ImageFault as fault:
            found.append((fault.problem, b""))
        except OSError as error:
            found.append((error.strerror or str(error), b""))
    return found


def _digest(source: Source) -> bytes:
    """SHA-256 of an image that can be decoded. Raises ImageFault or OSError if it cannot."""
    if isinstance(source, Path):
        digest = hashlib.sha256(source.read_bytes()).digest()
        read_rgb(source)
        return digest
    images, index = source
    rgb = images[index]
    return hashlib.sha256(repr(rgb.shape).encode() + rgb.tobytes()).digest()
