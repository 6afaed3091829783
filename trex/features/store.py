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

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from trex.errors import UserError
from trex.features.index import read_index, user_block, write_index
from trex.files import atomic_path
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


def write_features(
    path: Path, blocks: Iterable[np.ndarray], shape: tuple[int, int], labels: np.ndarray, names: list[str],
    classes: tuple[str, ...], provenance: FeatureProvenance, skipped: Sequence[str] = (),
) -> None:  # fmt: skip
    """Write a feature file atomically from consecutive blocks of rows. Memory holds one block at a time.

    Args:
        path: the file.
        blocks: arrays of D columns.
        shape: (n, D) of all blocks together.
        labels: (n,), the position of each image's class in `classes`; or (n, K), as `Features.labels`.
        names: n paths within the dataset.
        classes: the names of the classes.
        provenance: how the features were made, their dtype, and the number of skipped images.
        skipped: paths of the broken images that have no feature.

    Raises:
        ValueError: if the blocks do not have n rows together, or hold a number that is not finite.
    """
    assert len(skipped) == provenance.skipped
    digest = _Digest()
    tables = {"labels": labels.astype(np.int64 if labels.ndim == 1 else np.int8)}
    tables |= {key: _encoded(texts) for key, texts in (("names", names), ("classes", classes), ("skipped", skipped))}
    largest = ArrayPlace("|S00000000", (2**63 - 1,) * 2, 2**63 - 1)
    size = user_block(FeatureIndex(provenance, digest.hex(), dict.fromkeys(_ARRAYS, largest)))
    with atomic_path(path) as temporary:
        with temporary.open("w+b") as opened, h5py.File(opened, "w", userblock_size=size, **_LAYOUT) as file:
            array = file.create_dataset("features", shape=shape, dtype=provenance.dtype)
            digest.begin("features", array)
            row = 0
            for block in blocks:
                if not np.isfinite(block).all():
                    raise ValueError(f"{path}: a feature between rows {row} and {row + len(block)} is not finite")
                array[row : row + len(block)] = block
                digest.update(block.astype(array.dtype, copy=False))
                row += len(block)
            if row != shape[0]:
                raise ValueError(f"{path}: got {row} rows of features, expected {shape[0]}")
            for key, table in tables.items():
                file[key] = table
                digest.add(key, table)
            index = FeatureIndex(provenance, digest.hex(), {key: _place(file[key]) for key in _ARRAYS})
            for key, value in index.hdf5_attributes().items():
                file.attrs[key] = _encoded([value]).reshape(()) if isinstance(value, str) else value
        write_index(temporary, index)


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


#: The version of the HDF5 format whose structures have checksums, and arrays at multiples of 64 bytes. HDF5 writes
#: through an open file: it would lock a path, which some file systems refuse, and not name the error of a full disk.
_LAYOUT = {"libver": ("v110", "v110"), "alignment_threshold": 1, "alignment_interval": 64}
#: The arrays, in the order of the digest: number of dimensions and dtypes of each.
_TEXT = r"\|S[1-9]\d{0,7}"
_ARRAYS = {"features": "<f4|<f2", "labels": r"<i8|\|i1", "names": _TEXT, "classes": _TEXT, "skipped": _TEXT}
#: The bytes that are hashed at a time.
_CHUNK = 16 << 20


class _Digest:
    """SHA-256 of arrays: of the name, dtype, shape and bytes of each."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def begin(self, key: str, array: np.ndarray | h5py.Dataset) -> None:
        """Add name, dtype and shape of an array."""
        self._sha256.update(f"{key} {array.dtype.str} {array.shape}\n".encode())

    def update(self, part: np.ndarray) -> None:
        """Add the next rows of the array."""
        self._sha256.update(np.ascontiguousarray(part).tobytes())

    def add(self, key: str, array: np.ndarray) -> None:
        """Add a whole array."""
        self.begin(key, array)
        rows = max(_CHUNK // max(array[:1].nbytes, 1), 1)
        for begin in range(0, len(array), rows):
            self.update(array[begin : begin + rows])

    def hex(self) -> str:
        """The digest."""
        return self._sha256.hexdigest()


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
