"""Checks every image of a dataset: finds images that cannot be decoded and images that are in both splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from trex.datasets.members import Member
from trex.datasets.record import Images
from trex.datasets.split import Split, SplitName, content_at
from trex.images.decode import ImageFault, decoded
from trex.interruption import leave_signals_to_parent

_CHUNK = 64  #: images that a process checks in one call

#: One image: a file, its place in a large file, or an object that reads images and an index.
Source = Path | Member | tuple[Images, int]


@dataclass(frozen=True)
class FileCheck:
    """Result of the check of one image."""

    split_name: SplitName
    index: int
    problem: str  #: empty for an image that decodes
    digest: bytes  #: SHA-256 of the file, or of the pixels where the image is not a file


def check_files(splits: dict[SplitName, Split], processes: int) -> Iterator[FileCheck]:
    """Read and decode every image of the splits, in parallel; one result per image, in no particular order.

    Memory use is bounded: only a few chunks are processed at any time. If the decoder process crashes, the result names
    the image that caused it.
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
    """Returns the index pairs (trainval, test) of images with the same digest, sorted.

    Args:
        checked: for each split, a mapping from digest to the index of an image with that digest.
    """
    both = checked["trainval"].keys() & checked["test"].keys()
    return sorted((checked["trainval"][digest], checked["test"][digest]) for digest in both)


@dataclass(frozen=True)
class _Chunk:
    split_name: SplitName
    first: int
    sources: list[Source]

    def results(self, found: list[tuple[str, bytes]]) -> list[FileCheck]:
        return [
            FileCheck(self.split_name, self.first + i, problem, digest) for i, (problem, digest) in enumerate(found)
        ]


def _chunks(splits: dict[SplitName, Split]) -> Iterator[_Chunk]:
    for split_name, split in splits.items():
        if split.folder is None:
            continue
        for first in range(0, len(split), _CHUNK):
            indices = range(first, min(first + _CHUNK, len(split)))
            if split.images is None:
                yield _Chunk(split_name, first, [split.file(i) for i in indices])
            else:
                yield _Chunk(split_name, first, [(split.images, i) for i in indices])


def _one_by_one(chunk: _Chunk) -> list[FileCheck]:
    """Check each image in its own process: a process crashed on this chunk, or on one that ran at the same time."""
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
    return found


def _digest(source: Source) -> bytes:
    """SHA-256 of an image. Raises ImageFault if the image cannot be decoded."""
    if isinstance(source, tuple):
        images, index = source
        rgb = images[index]
        return hashlib.sha256(repr(rgb.shape).encode() + rgb.tobytes()).digest()
    content = content_at(source)
    decoded(str(source), content)
    return hashlib.sha256(content).digest()
