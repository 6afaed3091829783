"""Feature files: plain HDF5, one per split, complete or absent (docs/features.md).

    features  (n, D) float32 or float16, contiguous, uncompressed     labels  (n,) int64
    names     (n,) UTF-8, paths within the dataset                    classes (K,) UTF-8
    attributes: what made them (trex/records/feature_provenance.py)

Opened files are not trusted: nothing in one can make the reader open another file or allocate more than its size. All
of HDF5's own structures have checksums: the library refuses damaged ones, while damage in the structures of its older
formats, or in its heap of variable-length text, can crash it or hang it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from trex.errors import UserError
from trex.files import atomic_path
from trex.records.base import RecordError
from trex.records.feature_provenance import FeatureAttributes, FeatureProvenance


@dataclass(frozen=True)
class Features:
    """A feature file, opened for reading; `features` is mapped, not read."""

    features: np.ndarray  #: (n, D) float32 or float16, read-only
    labels: np.ndarray  #: (n,) int64
    encoded_names: np.ndarray  #: (n,) UTF-8, mapped as well
    classes: tuple[str, ...]
    attributes: FeatureAttributes

    @property
    def provenance(self) -> FeatureProvenance:
        """What made the file."""
        return self.attributes.provenance

    @property
    def digest(self) -> str:
        """SHA-256 of the feature array's bytes."""
        return self.attributes.digest

    @property
    def names(self) -> list[str]:
        """Paths of the images within the dataset."""
        return [name.decode("utf-8", "surrogateescape") for name in self.encoded_names]


def write_features(
    path: Path, blocks: Iterable[np.ndarray], shape: tuple[int, int], labels: np.ndarray, names: list[str],
    classes: tuple[str, ...], provenance: FeatureProvenance,
) -> None:  # fmt: skip
    """Write a feature file, atomically, from consecutive `blocks` of rows. Memory holds one block at a time.

    Raises:
        ValueError: if the blocks are not `shape` together, or hold a number that is not finite.
    """
    digest = hashlib.sha256()
    with atomic_path(path) as temporary, h5py.File(temporary, "w", libver=_VERSIONS, locking=False) as file:
        array = file.create_dataset("features", shape=shape, dtype=provenance.dtype)
        row = 0
        for block in blocks:
            if not np.isfinite(block).all():
                raise ValueError(f"{path}: a feature between rows {row} and {row + len(block)} is not finite")
            array[row : row + len(block)] = block
            digest.update(np.ascontiguousarray(block).tobytes())
            row += len(block)
        if row != shape[0]:
            raise ValueError(f"{path}: got {row} rows of features, expected {shape[0]}")
        file["labels"] = labels.astype(np.int64)
        file["names"] = _encoded(names)
        file["classes"] = _encoded(classes)
        for key, value in FeatureAttributes(provenance, digest.hexdigest()).to_attributes().items():
            file.attrs[key] = _encoded([value]).reshape(()) if isinstance(value, str) else value


def open_features(path: Path) -> Features:
    """Open a feature file for reading.

    Raises:
        UserError: if it is missing, damaged, of another format, or holds what a feature file never does (links to
            other files, external or virtual storage, filters, objects).
    """
    if not path.is_file():
        raise UserError(f"{path}: no such feature file; extract the features first")
    try:
        with _opened(path) as file:
            found = {key: _plain(file, key, path) for key in ("features", "labels", "names", "classes")}
            attributes = _attributes(file, path)
            labels = found["labels"][()]
            names = _mapped(path, found["names"])
            classes = tuple(name.decode() for name in found["classes"][()])
            features = _mapped(path, found["features"])
    except _UNREADABLE as error:
        raise _not_readable(path, error) from error
    _check_shapes(path, features, labels, names, classes)
    return Features(features, labels, names, classes, attributes)


def read_attributes(path: Path) -> FeatureAttributes:
    """What made a feature file, and the digest of its features; reads nothing else of it.

    Raises:
        UserError: as `open_features`.
    """
    try:
        with _opened(path) as file:
            return _attributes(file, path)
    except _UNREADABLE as error:
        raise _not_readable(path, error) from error


def other_features(path: Path, differences: Iterable[str]) -> UserError:
    """The error of finding features that something else made than what is wanted."""
    listed = "\n".join(f"  {difference}" for difference in differences)
    return UserError(
        f"{path} holds features made by something else (wanted and found):\n{listed}\n"
        f"Delete it, or all in {path.parents[1]}, to extract again. "
        f"Or keep both: give this run another name (name=…)."
    )


#: The versions of HDF5's format whose structures have checksums: what is written, and the first bytes of such a file.
_VERSIONS = ("v110", "v110")
_SIGNATURES = (b"\x89HDF\r\n\x1a\n\x02", b"\x89HDF\r\n\x1a\n\x03")
#: What h5py and numpy raise for a damaged file.
_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, RuntimeError, IndexError, OverflowError, MemoryError, AttributeError,
)  # fmt: skip


def _not_readable(path: Path, error: BaseException) -> UserError:
    return UserError(f"{path}: not a readable feature file ({error}); delete it and extract again")


def _opened(path: Path) -> h5py.File:
    with path.open("rb") as file:
        if file.read(len(_SIGNATURES[0])) not in _SIGNATURES:
            raise OSError("it is not HDF5 in the format of feature files")
    return h5py.File(path, "r", locking=False)


def _attributes(file: h5py.File, path: Path) -> FeatureAttributes:
    values = {name: _plain_value(value) for name, value in file.attrs.items()}
    try:
        return FeatureAttributes.from_attributes(values, str(path))
    except RecordError as error:
        raise UserError(f"{error}; delete the file and extract again") from error


def _plain_value(value: object) -> object:
    """An attribute as text, number or truth value."""
    plain = value.item() if isinstance(value, np.generic) else value
    return plain.decode() if isinstance(plain, bytes) else plain


def _encoded(texts: Iterable[str]) -> np.ndarray:
    """Fixed-length UTF-8: readable with plain h5py, and without pointers that a reader would have to follow."""
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max(map(len, encoded), default=1) or 1))


def _plain(file: h5py.File, key: str, path: Path) -> h5py.Dataset:
    """The dataset `key` if it is stored in this very file, contiguous and uncompressed."""
    if file.get(key, getlink=True, default=None) is None:
        raise UserError(f"{path}: has no {key!r}; not a feature file")
    if not isinstance(file.get(key, getlink=True), h5py.HardLink):
        raise UserError(f"{path}: {key!r} is a link to somewhere else; refused")
    found = file[key]
    if not isinstance(found, h5py.Dataset):
        raise UserError(f"{path}: {key!r} is not an array; not a feature file")
    properties = found.id.get_create_plist()
    if found.external or found.is_virtual or found.chunks or properties.get_nfilters():
        raise UserError(f"{path}: {key!r} is not stored plainly in this file (external, virtual, chunked or filtered)")
    if found.dtype.kind not in "fiS":
        raise UserError(f"{path}: {key!r} has elements of type {found.dtype}; refused")
    if found.size * found.dtype.itemsize > path.stat().st_size:
        raise UserError(f"{path}: {key!r} claims to be larger than the file; it is damaged or forged")
    return found


def _mapped(path: Path, array: h5py.Dataset) -> np.ndarray:
    """The array as a read-only memory map of its place in the file."""
    if array.size == 0 or array.id.get_offset() is None:
        return np.zeros(array.shape, array.dtype)
    return np.memmap(path, dtype=array.dtype, mode="r", offset=array.id.get_offset(), shape=array.shape)


def _check_shapes(
    path: Path, features: np.ndarray, labels: np.ndarray, names: np.ndarray, classes: tuple[str, ...]
) -> None:
    n = len(features)
    if (
        features.ndim != 2
        or features.dtype.kind != "f"
        or labels.shape != (n,)
        or names.shape != (n,)
        or names.dtype.kind != "S"
    ):
        raise UserError(f"{path}: features {features.shape}, labels {labels.shape} and {len(names)} names do not fit")
    if n and (int(labels.min()) < 0 or int(labels.max()) >= len(classes)):
        raise UserError(f"{path}: labels from {labels.min()} to {labels.max()} for {len(classes)} classes")
