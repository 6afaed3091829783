"""One split of a dataset: its images, their labels, and how to read an image."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from trex.datasets.members import Member, Members
from trex.datasets.record import Images, SplitListing
from trex.images.decode import RGB, content_of, decoded, decoded_fast, patiently
from trex.wording import printable

SplitName = Literal["trainval", "test"]


class Names:
    """Many strings in one byte array. As a list, a million paths would take almost 1 GB in every loader process."""

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        #: (n,) int64, where each name ends in `bytes`
        self.ends = np.cumsum([len(name) for name in encoded], dtype=np.int64) if encoded else np.zeros(0, np.int64)
        self.bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)  #: all names, one after the other

    @classmethod
    def of(cls, ends: np.ndarray, content: np.ndarray) -> Names:
        """The names with these `ends` and `bytes`."""
        names = cls([])
        names.ends, names.bytes = ends, content
        return names

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        begin = int(self.ends[index - 1]) if index else 0
        return self.bytes[begin : int(self.ends[index])].tobytes().decode("utf-8", "surrogateescape")

    def digest(self) -> bytes:
        """SHA-256 over all names and the position where each ends."""
        return hashlib.sha256(self.ends.tobytes() + self.bytes.tobytes()).digest()


def content_at(file: Path | Member) -> bytes:
    """The bytes of an image file. Raises ImageFault if they cannot be read."""
    return file.content() if isinstance(file, Member) else content_of(file)


@dataclass(frozen=True)
class Split:
    """One split of a dataset. Labels are indices into `classes`."""

    dataset: str
    split_name: SplitName
    classes: tuple[str, ...]  #: with bytes that are not UTF-8 written out
    #: (n,) int64; or (n, K) int8 in a multi-label dataset: 1 for a class that is shown, -1 for others, 0: ignored
    labels: np.ndarray
    names: Names  #: paths relative to `folder`, with forward slashes
    folder: Path | None = None
    problem: str = ""  #: how the dataset differs from the official one; empty if it does not
    left_out: str = ""  #: how many files in its folders are not used, and which; empty if all are
    #: Reads the images, if they are not in files with these names.
    images: Images | None = field(default=None, repr=False)
    members: Members | None = field(default=None, repr=False)  #: the images in large files, if they are there

    @classmethod
    def of(
        cls,
        listed: SplitListing,
        dataset: str,
        split_name: SplitName,
        classes: tuple[str, ...],
        folder: Path | None,
        problem: str,
    ) -> Split:
        """The split that a reader returned as `listed`."""
        labels = np.asarray(listed.labels, dtype=np.int64)
        labels = labels.astype(np.int8) if labels.ndim == 2 else labels
        names, texts = Names(listed.names), tuple(map(printable, classes))
        return cls(
            dataset, split_name, texts, labels, names, folder, problem, listed.left_out, listed.images, listed.members
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several classes."""
        return self.labels.ndim == 2

    @property
    def comparable(self) -> bool:
        """Whether results can be compared with published ones: the counts are the official ones."""
        return not self.problem

    def name(self, index: int) -> str:
        """Path of an image relative to the dataset's folder."""
        return self.names[index]

    def read(self, index: int, fast: bool = False) -> RGB:
        """Decode image `index`: uint8 (H, W, 3).

        Args:
            index: index of the image in this split.
            fast: decode JPEGs with libjpeg-turbo; a few gray levels may differ from Pillow.

        Raises:
            ImageFault: if the image cannot be read; the message names the file.
        """
        if self.images is not None:
            return self.images[index]
        return (decoded_fast if fast else decoded)(self.path(index), self.content(index))

    def file(self, index: int) -> Path | Member:
        """The file of image `index`, or its place in a large file."""
        assert self.folder is not None
        name = self.names[index]
        return self.folder / name if self.members is None else self.members.at(index, name)

    def path(self, index: int) -> str:
        """The file of image `index` as text, for messages."""
        return str(self.file(index))

    def size_of(self, index: int) -> int:
        """The bytes of image `index`, as its index or file system states them. Raises ImageFault if it has no file."""
        file = self.file(index)
        if isinstance(file, Member):
            return file.size
        return patiently(file, lambda: file.stat().st_size)

    def content(self, index: int) -> bytes:
        """The bytes of the file of image `index`. Raises ImageFault if they cannot be read."""
        return content_at(self.file(index))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over dataset, split, classes, labels and names. Features and checkpoints record it."""
        digest = hashlib.sha256()
        for text in (self.dataset, self.split_name, *self.classes):
            digest.update(hashlib.sha256(text.encode()).digest())
        digest.update(np.ascontiguousarray(self.labels, dtype=np.int64).tobytes())
        digest.update(self.names.digest())
        if isinstance(self.images, np.ndarray):
            digest.update(np.ascontiguousarray(self.images).tobytes())
        return digest.hexdigest()
