"""Feature files: plain HDF5, one per split, always complete (docs/features.md).

    features  (n, D) float32 or float16, contiguous, uncompressed     labels  (n,) int64 or (n, K) int8
    names     (n,) UTF-8, paths within the dataset                    classes (K,) UTF-8
    skipped   (m,) UTF-8, paths of the broken images without a feature; mostly none
    attributes: the provenance (trex/records/feature_provenance.py)

Files are not trusted: no content can make the reader open another file, or allocate more memory than the file's size.
The files use the HDF5 format whose internal structures have checksums, so the HDF5 library refuses damaged structures.
In older formats, and in the heap of variable-length text, damage can crash the library or make it hang. The content has
a digest, which is compared whenever a file is opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
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
    """A feature file that is open for reading; `features` is a memory map."""

    features: np.ndarray  #: (n, D) float32 or float16, read-only
    labels: np.ndarray  #: (n,) int64; (n, K) int8 in a multi-label dataset: 1 shown, -1 not shown, 0 ignored
    encoded_names: np.ndarray  #: (n,) UTF-8, a memory map
    classes: tuple[str, ...]
    skipped: tuple[str, ...]  #: paths of the broken images that have no feature
    attributes: FeatureAttributes

    @property
    def provenance(self) -> FeatureProvenance:
        """How the file was made."""
        return self.attributes.provenance

    @property
    def digest(self) -> str:
        """SHA-256 of the content, as `FeatureAttributes.digest`."""
        return self.attributes.digest

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
    with atomic_path(path) as temporary, h5py.File(temporary, "w", libver=_VERSIONS, locking=False) as file:
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
        for key, value in FeatureAttributes(provenance, digest.hex()).to_attributes().items():
            file.attrs[key] = _encoded([value]).reshape(()) if isinstance(value, str) else value


def open_features(path: Path) -> Features:
    """Open a feature file for reading. This reads it once, to compare its digest.

    Raises:
        UserError: if it is missing, damaged or of another format, or if it has links to other files, external or
            virtual storage, filters or objects, which no feature file has.
    """
    if not path.is_file():
        raise UserError(f"{path}: this feature file does not exist. Extract the features first.")
    try:
        with _opened(path) as file:
            found = {key: _plain(file, key, path) for key in _ARRAYS}
            attributes = _attributes(file, path)
            labels = found["labels"][()]
            names = _mapped(path, found["names"])
            encoded_classes, encoded_skipped = found["classes"][()], found["skipped"][()]
            classes = tuple(name.decode() for name in encoded_classes)
            skipped = tuple(name.decode("utf-8", "surrogateescape") for name in encoded_skipped)
            features = _mapped(path, found["features"])
    except _UNREADABLE as error:
        raise _not_readable(path, error) from error
    _check_shapes(path, features, labels, names, classes)
    digest = _Digest()
    for key, array in zip(_ARRAYS, (features, labels, names, encoded_classes, encoded_skipped), strict=True):
        digest.add(key, array)
    if digest.hex() != attributes.digest:
        raise UserError(
            f"{path}: damaged: its content has another SHA-256 than when it was written. Delete it and extract again."
        )
    return Features(features, labels, names, classes, skipped, attributes)


def read_attributes(path: Path) -> FeatureAttributes:
    """Read only the provenance of a feature file and the digest of its features.

    Raises:
        UserError: as `open_features`.
    """
    try:
        with _opened(path) as file:
            return _attributes(file, path)
    except _UNREADABLE as error:
        raise _not_readable(path, error) from error


def other_features(path: Path, differences: Iterable[str]) -> UserError:
    """The error for a file with other features than the wanted ones; `differences` has one line per difference."""
    listed = "\n".join(f"  {difference}" for difference in differences)
    return UserError(
        f"{path} holds features made by something else (wanted and found):\n{listed}\n"
        f"To extract again, delete this file, or everything in {path.parents[1]}. "
        f"To keep both, give this run another name (name=…)."
    )


#: The versions of the HDF5 format whose structures have checksums, for writing; and the first bytes of such files.
_VERSIONS = ("v110", "v110")
_SIGNATURES = (b"\x89HDF\r\n\x1a\n\x02", b"\x89HDF\r\n\x1a\n\x03")
#: The exceptions that h5py and numpy raise for a damaged file.
_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, RuntimeError, IndexError, OverflowError, MemoryError, AttributeError,
)  # fmt: skip


#: The arrays, in the order of the digest, and the bytes that are hashed at a time.
_ARRAYS = ("features", "labels", "names", "classes", "skipped")
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


def _not_readable(path: Path, error: BaseException) -> UserError:
    return UserError(f"{path}: not a readable feature file ({error}). Delete it and extract again.")


def _opened(path: Path) -> h5py.File:
    with path.open("rb") as file:
        if file.read(len(_SIGNATURES[0])) not in _SIGNATURES:
            raise OSError("it is not in the HDF5 format of feature files")
    return h5py.File(path, "r", locking=False)


def _attributes(file: h5py.File, path: Path) -> FeatureAttributes:
    values = {name: _plain_value(value) for name, value in file.attrs.items()}
    try:
        return FeatureAttributes.from_attributes(values, str(path))
    except RecordError as error:
        raise UserError(f"{error}. Delete the file and extract again.") from error


def _plain_value(value: object) -> object:
    """The value of an attribute as str, int, float or bool."""
    plain = value.item() if isinstance(value, np.generic) else value
    return plain.decode() if isinstance(plain, bytes) else plain


def _encoded(texts: Iterable[str]) -> np.ndarray:
    """Fixed-length UTF-8: readable with plain h5py, and without pointers into a heap."""
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max(map(len, encoded), default=1) or 1))


def _plain(file: h5py.File, key: str, path: Path) -> h5py.Dataset:
    """The dataset `key`. Raises UserError unless it is stored in this file, contiguous and uncompressed."""
    if file.get(key, getlink=True, default=None) is None:
        raise UserError(f"{path}: not a feature file: it has no {key!r}")
    if not isinstance(file.get(key, getlink=True), h5py.HardLink):
        raise UserError(f"{path}: {key!r} is a link, which no feature file has")
    found = file[key]
    if not isinstance(found, h5py.Dataset):
        raise UserError(f"{path}: not a feature file: {key!r} is not an array")
    properties = found.id.get_create_plist()
    if found.external or found.is_virtual or found.chunks or properties.get_nfilters():
        raise UserError(
            f"{path}: {key!r} has external, virtual, chunked or filtered storage, which no feature file has"
        )
    if found.dtype.kind not in "fiS":
        raise UserError(f"{path}: {key!r} has elements of type {found.dtype}, which no feature file has")
    if found.size and found.id.get_offset() is None:
        raise UserError(f"{path}: {key!r} has no place of its own in the file, as in no feature file")
    if found.size * found.dtype.itemsize > path.stat().st_size:
        raise UserError(f"{path}: {key!r} claims to be larger than the file: the file is damaged or manipulated")
    return found


def _mapped(path: Path, array: h5py.Dataset) -> np.ndarray:
    """The array as a read-only memory map of the file."""
    if array.size == 0:
        return np.zeros(array.shape, array.dtype)
    return np.memmap(path, dtype=array.dtype, mode="r", offset=array.id.get_offset(), shape=array.shape)


def _check_shapes(
    path: Path, features: np.ndarray, labels: np.ndarray, names: np.ndarray, classes: tuple[str, ...]
) -> None:
    n = len(features)
    if (
        features.ndim != 2
        or features.dtype.kind != "f"
        or labels.shape not in ((n,), (n, len(classes)))
        or labels.dtype != (np.int64 if labels.ndim == 1 else np.int8)
        or names.shape != (n,)
        or names.dtype.kind != "S"
    ):
        found = f"features {features.shape}, labels {labels.shape} and {len(names)} names"
        raise UserError(f"{path}: damaged: {found} do not fit together")
    low, high = (0, len(classes) - 1) if labels.ndim == 1 else (-1, 1)
    if n and (int(labels.min()) < low or int(labels.max()) > high):
        raise UserError(f"{path}: damaged: labels from {labels.min()} to {labels.max()}, expected {low} to {high}")
