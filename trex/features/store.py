"""Feature files: plain HDF5, one per split, always complete (docs/features.md).

    features  (n, D) float32 or float16, contiguous, uncompressed     labels  (n,) int64 or (n, K) int8
    names     (n,) UTF-8, paths within the dataset                    classes (K,) UTF-8
    skipped   (m,) UTF-8, paths of the broken images without a feature; mostly none

Files are not trusted. They are written with the HDF5 library, and read without it: the index at the start of the file
says where the arrays are (`trex/features/index.py`), and they are mapped into memory. So no content can make the reader
open another file, run for ever, or allocate more memory than the file's size. The content has a digest, which is
compared whenever a file is opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from trex.errors import UserError
from trex.features.index import read_index, user_block, write_index
from trex.files import TEMPORARY, atomic_path, move, require_may_write, sync
from trex.records.feature_provenance import ArrayPlace, FeatureIndex, FeatureProvenance


@dataclass(frozen=True)
class Features:
    """A feature file that is open for reading; `features` is a memory map."""

    features: np.ndarray  #: (n, D) float32 or float16, read-only
    labels: np.ndarray  #: (n,) int64; (n, K) int8 in a multi-label dataset: 1 shown, -1 not shown, 0 ignored
    encoded_names: np.ndarray  #: (n,) UTF-8, a memory map
    classes: tuple[str, ...]
    skipped: tuple[str, ...]  #: paths of the broken images that have no feature
    index: FeatureIndex

    @property
    def provenance(self) -> FeatureProvenance:
        """How the file was made."""
        return self.index.provenance

    @property
    def digest(self) -> str:
        """SHA-256 of the content, as `FeatureIndex.digest`."""
        return self.index.digest

    @property
    def names(self) -> list[str]:
        """Paths of the images within the dataset."""
        return [name.decode("utf-8", "surrogateescape") for name in self.encoded_names]


@dataclass(frozen=True)
class Contents:
    """All of a feature file but the rows of features."""

    shape: tuple[int, int]  #: (n, D) of the features
    labels: np.ndarray  #: (n,), the position of each image's class in `classes`; or (n, K), as `Features.labels`
    names: Sequence[str]  #: n paths within the dataset
    classes: tuple[str, ...]
    provenance: FeatureProvenance  #: with the dtype of the features
    skipped: Sequence[str] = ()  #: paths of the broken images that have no feature

    def tables(self) -> dict[str, np.ndarray]:
        """The arrays of the file besides the features, in the order of the digest."""
        texts = (("names", self.names), ("classes", self.classes), ("skipped", self.skipped))
        labels = self.labels.astype(np.int64 if self.labels.ndim == 1 else np.int8)
        return {"labels": labels, **{key: _encoded(value) for key, value in texts}}


def write_features(path: Path, blocks: Iterable[np.ndarray], contents: Contents) -> None:
    """Write a feature file atomically from consecutive blocks of rows. Memory holds two blocks at a time.

    Each block is hashed in a thread while it is written to the disk.

    Args:
        path: the file.
        blocks: arrays of D columns.
        contents: everything else.

    Raises:
        ValueError: if the blocks do not have n rows together, or hold a number that is not finite.
    """
    shape, dtype = contents.shape, np.dtype(contents.provenance.dtype)
    with atomic_path(path) as temporary:
        offset = reserve_rows(temporary, contents.shape, contents.provenance)
        digest, row = RowsDigest(shape, dtype), 0
        with temporary.open("r+b", buffering=0) as file, ThreadPoolExecutor(1) as thread:
            file.seek(offset)
            hashed: Future[None] | None = None
            for block in blocks:
                if row + len(block) > shape[0]:
                    raise ValueError(f"{path}: got more than {row} rows of features, expected {shape[0]}")
                stored = np.ascontiguousarray(block, dtype)
                if hashed is not None:
                    hashed.result()
                hashed = thread.submit(digest.update, stored)
                if not all(np.isfinite(part).all() for part in _in_chunks(stored)):
                    raise ValueError(f"{path}: a feature between rows {row} and {row + len(block)} is not finite")
                write_all(file, stored)
                os.fdatasync(file.fileno())
                row += len(block)
        if row != shape[0]:
            raise ValueError(f"{path}: got {row} rows of features, expected {shape[0]}")
        _complete(temporary, offset, contents, digest)


def reserve_rows(path: Path, shape: tuple[int, int], provenance: FeatureProvenance) -> int:
    """Make an existing file as long as a feature file is up to the end of its rows; nothing is written.

    The rows can then be written in any order, and `complete_rows` makes it a feature file.

    Returns:
        where the rows begin, in bytes.
    """
    offset = _begin_of_rows(path.parent, shape, provenance)
    os.truncate(path, offset + _row_bytes(shape, provenance) * shape[0])
    return offset


def complete_rows(path: Path, rows: Path, offset: int, contents: Contents, digest: RowsDigest | None = None) -> bool:
    """Make a file with all rows in their place a feature file, and move it to `path`.

    If the process is killed meanwhile, the rows are unchanged, and this function can be called again.

    Args:
        path: the feature file.
        rows: the file that `reserve_rows` made.
        offset: what it returned.
        contents: everything else.
        digest: has seen all rows; None: they are read for it.

    Returns:
        False, after doing nothing, if the rows of such a file begin at another place: with another version of HDF5.
    """
    if _begin_of_rows(path.parent, contents.shape, contents.provenance) != offset:
        return False
    require_may_write()
    if digest is None:
        digest = RowsDigest(contents.shape, contents.provenance.dtype)
        digest.update(np.memmap(rows, contents.provenance.dtype, "r", offset, contents.shape))
    _complete(rows, offset, contents, digest)
    sync(rows)
    require_may_write()
    move(rows, path)
    sync(path.parent)
    return True


def write_all(file: io.FileIO, array: np.ndarray) -> None:
    """Write all bytes of a contiguous array. Raises OSError that names the file."""
    rest = array.reshape(-1).view(np.uint8).data
    try:
        while len(rest):
            rest = rest[file.write(rest) :]
    except OSError as error:
        error.filename = file.name
        raise


def open_features(path: Path) -> Features:
    """Open a feature file for reading. This reads it once, to compare its digest.

    Raises:
        UserError: if it is missing, damaged or of another format.
    """
    index = read_index(path)
    found = {key: _mapped(path, key, index.arrays) for key in _ARRAYS}
    found["labels"] = np.array(found["labels"])
    _check_shapes(path, found)
    digest = _Digest()
    for key, array in found.items():
        digest.add(key, array)
    if digest.hex() != index.digest:
        raise UserError(
            f"{path}: damaged: its content has another SHA-256 than when it was written. Delete it and extract again."
        )
    classes, skipped = (
        tuple(name.decode("utf-8", "surrogateescape") for name in found[key]) for key in ("classes", "skipped")
    )
    return Features(found["features"], found["labels"], found["names"], classes, skipped, index)


def _begin_of_rows(folder: Path, shape: tuple[int, int], provenance: FeatureProvenance) -> int:
    with _structure(folder, shape, provenance, {}, _Digest()) as (_, index):
        return index.arrays["features"].offset


def _row_bytes(shape: tuple[int, int], provenance: FeatureProvenance) -> int:
    return shape[1] * np.dtype(provenance.dtype).itemsize


def _complete(path: Path, offset: int, contents: Contents, digest: _Digest) -> None:
    """Write everything around the rows of a file. `digest` has seen the rows."""
    shape, provenance = contents.shape, contents.provenance
    assert len(contents.skipped) == provenance.skipped
    with _structure(path.parent, shape, provenance, contents.tables(), digest) as (structure, index):
        assert index.arrays["features"].offset == offset
        with structure.open("rb") as source, path.open("r+b") as file:
            file.write(source.read(offset))
            for opened in (source, file):
                opened.seek(offset + _row_bytes(shape, provenance) * shape[0])
            shutil.copyfileobj(source, file)
    write_index(path, index)


@contextlib.contextmanager
def _structure(
    folder: Path, shape: tuple[int, int], provenance: FeatureProvenance, tables: Mapping[str, np.ndarray],
    digest: _Digest,
) -> Iterator[tuple[Path, FeatureIndex]]:  # fmt: skip
    """Yield a feature file without rows, and its index. It has a hole in their place, which takes no disk.

    HDF5 makes it from nothing each time, and it is deleted at the end. So HDF5 never opens a file that a kill may have
    damaged. The rows come first, so where they begin depends only on their shape, the provenance and HDF5's version.

    Args:
        folder: where the file is for a moment.
        shape: of the features.
        provenance: how they were made.
        tables: the other arrays; none if only the place of the rows is wanted.
        digest: of the rows; that of the tables is added.
    """
    largest = dict.fromkeys(_ARRAYS, ArrayPlace("|S00000000", (2**63 - 1,) * 2, 2**63 - 1))
    size = user_block(FeatureIndex(provenance, digest.hex(), largest))
    handle, name = tempfile.mkstemp(prefix=TEMPORARY, suffix="-structure.h5", dir=folder)
    os.close(handle)
    path = Path(name)
    try:
        with path.open("w+b") as opened, h5py.File(opened, "w", userblock_size=size, **_LAYOUT) as file:
            places = {"features": _place(_allocated(file, shape, np.dtype(provenance.dtype)))}
            for key, array in tables.items():
                file[key] = array
                digest.add(key, array)
                places[key] = _place(file[key])
            index = FeatureIndex(provenance, digest.hex(), places)
            for key, value in index.hdf5_attributes().items():
                file.attrs[key] = _encoded([value]).reshape(()) if isinstance(value, str) else value
        yield path, index
    finally:
        path.unlink(missing_ok=True)


def _allocated(file: h5py.File, shape: tuple[int, int], dtype: np.dtype) -> h5py.Dataset:
    """The dataset `features`, contiguous, with its place in the file but without content."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    kind, space = h5py.h5t.py_create(dtype, logical=True), h5py.h5s.create_simple(shape)
    return h5py.Dataset(h5py.h5d.create(file.id, b"features", kind, space, layout))


#: The version of the HDF5 format whose structures have checksums, and arrays at multiples of 64 bytes. HDF5 writes
#: through an open file: it would lock a path, which some file systems refuse, and not name the error of a full disk.
_LAYOUT = {"libver": ("v110", "v110"), "alignment_threshold": 1, "alignment_interval": 64}
#: The arrays, in the order of the digest: number of dimensions and dtypes of each.
_TEXT = r"\|S[1-9]\d{0,7}"
_ARRAYS = {"features": "<f4|<f2", "labels": r"<i8|\|i1", "names": _TEXT, "classes": _TEXT, "skipped": _TEXT}
#: The bytes that are hashed at a time: they stay in the processor's cache.
_CHUNK = 1 << 20


class _Digest:
    """SHA-256 of arrays: of the name, dtype, shape and bytes of each."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, key: str, array: np.ndarray) -> None:
        """Add a whole array."""
        self._begin(key, array.dtype, array.shape)
        self.update(array)

    def _begin(self, key: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        self._sha256.update(f"{key} {dtype.str} {shape}\n".encode())

    def update(self, rows: np.ndarray) -> None:
        """Add the next rows of an array."""
        for part in _in_chunks(rows):
            self._sha256.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)

    def hex(self) -> str:
        """The digest."""
        return self._sha256.hexdigest()


class RowsDigest(_Digest):
    """The digest of a feature file's content, of which `update` takes the rows of features, in order."""

    def __init__(self, shape: tuple[int, int], dtype: np.dtype | str) -> None:
        super().__init__()
        self._begin("features", np.dtype(dtype), shape)


def _in_chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    rows = max(_CHUNK // max(array[:1].nbytes, 1), 1)
    return (array[begin : begin + rows] for begin in range(0, len(array), rows))


def _encoded(texts: Iterable[str]) -> np.ndarray:
    """Fixed-length UTF-8: readable with plain h5py, and without pointers into a heap."""
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max(map(len, encoded), default=1) or 1))


def _place(array: h5py.Dataset) -> ArrayPlace:
    return ArrayPlace(array.dtype.str, array.shape, array.id.get_offset() if array.size else 0)


def _mapped(path: Path, key: str, places: Mapping[str, ArrayPlace]) -> np.ndarray:
    """The array `key` as a read-only memory map of the file. Raises UserError unless its place is inside the file."""
    place = places.get(key)
    if place is None:
        raise UserError(f"{path}: not a feature file: it has no {key!r}")
    if not re.fullmatch(_ARRAYS[key], place.dtype):
        raise UserError(f"{path}: {key!r} has elements of type {place.dtype:.20}, which no feature file has")
    dtype = np.dtype(place.dtype)
    end = place.offset + math.prod(place.shape) * dtype.itemsize
    size = path.stat().st_size
    if len(place.shape) > 2 or max(end, *place.shape) > size:
        raise UserError(f"{path}: damaged: {key!r} of shape {place.shape} ends at byte {end}, the file at {size}")
    if 0 in place.shape:
        return np.zeros(place.shape, dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=place.offset, shape=place.shape)


def _check_shapes(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    features, labels, n, classes = arrays["features"], arrays["labels"], len(arrays["names"]), len(arrays["classes"])
    tables = [arrays[key].ndim for key in ("names", "classes", "skipped")]
    if (
        features.ndim != 2
        or len(features) != n
        or labels.shape not in ((n,), (n, classes))
        or labels.dtype != (np.int64 if labels.ndim == 1 else np.int8)
        or tables != [1, 1, 1]
    ):
        found = f"features {features.shape}, labels {labels.shape} and {n} names"
        raise UserError(f"{path}: damaged: {found} do not fit together")
    low, high = (0, classes - 1) if labels.ndim == 1 else (-1, 1)
    if n and (int(labels.min()) < low or int(labels.max()) > high):
        raise UserError(f"{path}: damaged: labels from {labels.min()} to {labels.max()}, expected {low} to {high}")
