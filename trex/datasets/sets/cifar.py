"""CIFAR-10 and CIFAR-100, in the binary version that the official page offers next to the pickled one.

Counts and format: https://www.cs.toronto.edu/~kriz/cifar.html. A file is a sequence of records: the labels (one byte in
CIFAR-10; the coarse and the fine label in CIFAR-100), then 3072 bytes, the 32 x 32 red, green and blue values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

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
    labels: int  #: label bytes of a record; the last one is the class


CIFAR10 = Layout(
    "cifar-10-batches-bin",
    tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test_batch.bin",
    "batches.meta.txt",
    labels=1,
)
CIFAR100 = Layout("cifar-100-binary", ("train.bin",), "test.bin", "fine_label_names.txt", labels=2)


@dataclass(frozen=True)
class BinaryImages:
    """Reads images by index from files of records. It holds paths only, so it is small in every loader process."""

    files: tuple[tuple[Path, int], ...]  #: path and number of records
    labels: int  #: label bytes of a record

    def __getitem__(self, index: int) -> np.ndarray:
        """Image `index` as uint8 (32, 32, 3). Raises ImageFault, which names the file, if it cannot be read."""
        import numpy as np

        from trex.images.decode import ImageFault, fault_of

        size = self.labels + _PIXELS
        for path, count in self.files:
            if index < count:
                try:
                    with path.open("rb") as file:
                        file.seek(index * size + self.labels)
                        content = file.read(_PIXELS)
                except OSError as error:
                    raise fault_of(f"{path}, image {index}", error) from None
                if len(content) < _PIXELS:
                    raise ImageFault(f"{path}, image {index}", "the file ends before it")
                pixels: np.ndarray = np.frombuffer(content, np.uint8).reshape(3, 32, 32).transpose(1, 2, 0).copy()
                return pixels
            index -= count
        raise IndexError(index)


def read_cifar(layout: Layout, folder: Path) -> Listing:
    """Reads the binary files. Labels follow the file of class names."""
    base = find_base(folder, (*layout.train, layout.test, layout.classes), (layout.inner,))
    classes = read_names(base / layout.classes)
    trainval = _split([base / name for name in layout.train], layout, len(classes))
    return Listing(tuple(classes), trainval, _split([base / layout.test], layout, len(classes)), folder=base)


def _split(paths: list[Path], layout: Layout, classes: int) -> SplitListing:
    import numpy as np

    names: list[str] = []
    labels: list[int] = []
    files = []
    size = layout.labels + _PIXELS
    for path in paths:
        count, rest = divmod(path.stat().st_size, size)
        if rest:
            raise UserError(
                f"{path}: {path.stat().st_size} bytes, expected a multiple of {size}: the file is incomplete, or is "
                f"another one. Unpack the binary version of the official archive again"
            )
        found = np.fromfile(path, np.uint8).reshape(count, size)[:, layout.labels - 1]
        if len(found) and found.max() >= classes:
            image = int(np.argmax(found >= classes))
            raise UserError(f"{path}: image {image} has the label {found[image]}, expected 0 to {classes - 1}")
        names += [f"{path.name}/{index:05d}" for index in range(count)]
        labels += found.tolist()
        files.append((path, count))
    return SplitListing(names, labels, BinaryImages(tuple(files), layout.labels))


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
