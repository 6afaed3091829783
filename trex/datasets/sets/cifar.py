"""CIFAR-10 and CIFAR-100, in the binary version or the version for Python that the official page offers.

Counts and formats: https://www.cs.toronto.edu/~kriz/cifar.html. A binary file is a sequence of records: the labels (one
byte in CIFAR-10; the coarse and the fine label in CIFAR-100), then 3072 bytes, the 32 x 32 red, green and blue values.
A file for Python is a pickle of a dict with labels and an array of these bytes. It is read without running any code in
it, once, to learn the labels and where the array begins in the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from trex.datasets.cog_pickle import read_plain_pickle
from trex.datasets.layout import find_base, read_names
from trex.datasets.record import Archive, Counts, Dataset, Listing, SplitListing
from trex.errors import UserError

if TYPE_CHECKING:
    import numpy as np

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Layout:
    """Where one of the two datasets keeps what."""

    inner: str  #: folder in the archive
    train: tuple[str, ...]
    test: str
    classes: str  #: file with the class names, one per line
    labels: int = 0  #: label bytes of a record, the last of which is the class; 0 in the version for Python
    keys: tuple[str, str] = ("", "")  #: of the labels and of the class names, in the version for Python


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
CIFAR10 = (
    Layout("cifar-10-batches-bin", tuple(f"{name}.bin" for name in _BATCHES), "test_batch.bin", "batches.meta.txt", 1),
    Layout("cifar-10-batches-py", _BATCHES, "test_batch", "batches.meta", keys=("labels", "label_names")),
)
CIFAR100 = (
    Layout("cifar-100-binary", ("train.bin",), "test.bin", "fine_label_names.txt", 2),
    Layout("cifar-100-python", ("train",), "test", "meta", keys=("fine_labels", "fine_label_names")),
)


@dataclass(frozen=True)
class BinaryImages:
    """Reads images by index from files of records. It holds paths only, so it is small in every loader process."""

    files: tuple[tuple[Path, int, int], ...]  #: path, number of images, and where the first one begins
    size: int  #: bytes from one image to the next

    def __getitem__(self, index: int) -> np.ndarray:
        """Image `index` as uint8 (32, 32, 3). Raises ImageFault, which names the file, if it cannot be read."""
        import numpy as np

        from trex.images.decode import ImageFault, fault_of

        for path, count, first in self.files:
            if index < count:
                try:
                    with path.open("rb") as file:
                        file.seek(first + index * self.size)
                        content = file.read(_PIXELS)
                except OSError as error:
                    raise fault_of(f"{path}, image {index}", error) from None
                if len(content) < _PIXELS:
                    raise ImageFault(f"{path}, image {index}", "the file ends before it")
                pixels: np.ndarray = np.frombuffer(content, np.uint8).reshape(3, 32, 32).transpose(1, 2, 0).copy()
                return pixels
            index -= count
        raise IndexError(index)


def read_cifar(layouts: tuple[Layout, Layout], folder: Path) -> Listing:
    """Reads the binary files, or the files for Python if only these are there. Labels follow the class names' order."""
    binary, python = layouts
    has_python, has_binary = (
        any((base / layout.classes).is_file() for base in (folder, folder / layout.inner))
        for layout in (python, binary)
    )
    if has_python and not has_binary:
        base = find_base(folder, (*python.train, python.test, python.classes), (python.inner,))
        classes = _unpickled(base / python.classes, python.keys[1]).get(python.keys[1])
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise UserError(f"{base / python.classes}: expected a list of class names as {python.keys[1]!r}")
        layout, read = python, _read_pickle
    else:
        base = find_base(folder, (*binary.train, binary.test, binary.classes), (binary.inner,))
        classes = read_names(base / binary.classes)
        layout, read = binary, _read_records

    def split(files: tuple[str, ...]) -> SplitListing:
        names: list[str] = []
        labels: list[int] = []
        parts = []
        for path in (base / name for name in files):
            found, first = read(path, layout)
            for image, label in enumerate(found):
                if not (isinstance(label, int) and 0 <= label < len(classes)):
                    raise UserError(f"{path}: image {image} has the label {label!r}, expected 0 to {len(classes) - 1}")
            names += [f"{path.name}/{index:05d}" for index in range(len(found))]
            labels += found
            parts.append((path, len(found), first))
        return SplitListing(names, labels, BinaryImages(tuple(parts), layout.labels + _PIXELS))

    return Listing(tuple(classes), split(layout.train), split((layout.test,)), folder=base)


def _read_records(path: Path, layout: Layout) -> tuple[list[int], int]:
    """The labels of a binary file, and where its first image begins."""
    import numpy as np

    size = layout.labels + _PIXELS
    count, rest = divmod(path.stat().st_size, size)
    if rest:
        raise UserError(
            f"{path}: {path.stat().st_size} bytes, expected a multiple of {size}: the file is incomplete, or is "
            f"another one. Unpack the binary version of the official archive again"
        )
    labels = np.fromfile(path, np.uint8).reshape(count, size)[:, layout.labels - 1]
    return labels.tolist(), layout.labels


def _read_pickle(path: Path, layout: Layout) -> tuple[list[int], int]:
    """The labels of a file for Python, and where its array of images begins."""
    value = _unpickled(path, layout.keys[0])
    labels, data = value.get(layout.keys[0]), value.get("data")
    if not isinstance(labels, list) or not isinstance(data, bytes) or len(data) != len(labels) * _PIXELS:
        raise UserError(f"{path}: expected a list {layout.keys[0]!r} and an array 'data' of {_PIXELS} bytes per image")
    first = path.read_bytes().find(data)
    if first < 0:
        raise UserError(f"{path}: its array is stored in another form than in the official file. Unpack that again")
    return labels, first


def _unpickled(path: Path, key: str) -> dict[str, object]:
    value = read_plain_pickle(path, f"CIFAR's file for Python, with {key!r}")
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected CIFAR's file for Python, with {key!r}, found a {type(value).__name__}")
    return value


DATASETS = (
    Dataset(
        "cifar10",
        partial(read_cifar, CIFAR10),
        Counts(classes=10, trainval=50000, test=10000),
        archives=(
            Archive("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
        ),
    ),
    Dataset(
        "cifar100",
        partial(read_cifar, CIFAR100),
        Counts(classes=100, trainval=50000, test=10000),
        archives=(
            Archive("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
        ),
    ),
)
