"""The record of a dataset: everything that is known about it before its files are read.

Imports nothing heavy: submitting jobs and `trex data list` read the records.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np

Fit = Literal["L-BFGS", "SGD"]


class Images(Protocol):
    """Pixels that are read by index: an array uint8 (n, H, W, 3), or what reads one image at a time."""

    def __getitem__(self, index: int, /) -> np.ndarray:
        """Image `index`: uint8 (H, W, 3)."""


@dataclass(frozen=True)
class Counts:
    """Official numbers of a dataset."""

    classes: int
    trainval: int  #: images
    test: int  #: images


class Listed(NamedTuple):
    """The images of one split, as a reader finds them."""

    names: list[str]  #: paths relative to the folder, with forward slashes
    labels: list[int]  #: indices of the classes
    images: Images | None = None  #: the pixels, where they are not in files of these names


@dataclass(frozen=True)
class Listing:
    """Both splits of a dataset, as a reader finds them."""

    classes: tuple[str, ...]
    trainval: Listed
    test: Listed
    folder: Path | None = None  #: where the relative paths begin, if not in the dataset's own folder
    listed: bool = False  #: whether the paths come from a list, so that each file still has to be looked for
    remark: str = ""  #: what is known about a wrong count


Reader = Callable[[Path], Listing]


@dataclass(frozen=True)
class Archive:
    """One file of an official site."""

    url: str
    md5: str | None = None  #: as the site or torchvision gives it; None where nobody does
    into: str = ""  #: folder within the dataset's that it is unpacked or copied into

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Dataset:
    """One dataset: its name, how it is read, where it comes from and how the published protocol treats it."""

    name: str  #: as configs name it
    read: Reader  #: from its folder to the images of both splits
    counts: Counts | None = None  #: the official numbers; other numbers are refused unless `data.subsets` names the set
    archives: tuple[Archive, ...] = ()  #: what `trex data get` downloads
    download: Callable[[Path], None] | None = None  #: what `trex data get` calls, where there are no archives
    steps: str = ""  #: how to get it by hand, where no program can
    folder: str | None = None  #: the folder within `data.root` that it is read from, if not one of its own name
    needs_files: bool = True  #: False for a dataset that is made without a folder
    normalized: bool = False  #: whether its features are L2-normalized for the probes
    published_fit: Fit = "L-BFGS"  #: how the published protocol fits its probes
