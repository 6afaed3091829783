"""The record of a dataset: everything that is known about the dataset before its files are read.

This module imports nothing heavy, because submitting jobs and `trex data list` read the records.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np

    from trex.datasets.members import Members

Fit = Literal["L-BFGS", "SGD"]


class Images(Protocol):
    """Images that are read by index: a uint8 array (n, H, W, 3), or an object that reads one image at a time."""

    def __getitem__(self, index: int, /) -> np.ndarray:
        """Return image `index` as a uint8 array (H, W, 3)."""


@dataclass(frozen=True)
class Counts:
    """Official numbers of classes and images of a dataset."""

    classes: int
    trainval: int  #: images
    test: int  #: images


class SplitListing(NamedTuple):
    """The images of one split, as a reader returns them."""

    names: list[str]  #: paths relative to the folder, with forward slashes
    #: int, the index of each image's class; or, in a multi-label dataset, a tuple for each image, with 1 (shown),
    #: -1 (not shown) or 0 (ignored) for each class.
    labels: list[Any]
    images: Images | None = None  #: reads the images, if they are not in files with these names
    left_out: str = ""  #: how many files in the split's folders are not used, and which
    members: Members | None = None  #: where the images are, if they are in large files: a pack, tar or zip


@dataclass(frozen=True)
class Listing:
    """Both splits of a dataset, as a reader returns them."""

    classes: tuple[str, ...]
    trainval: SplitListing
    test: SplitListing
    folder: Path | None = None  #: folder that the paths are relative to, if not the dataset's own folder
    from_list_file: bool = False  #: the paths come from a list, so each file must still be checked to exist
    remark: str = ""  #: explains a wrong count, for the error message
    problem: str = ""  #: how the dataset differs from the official one, beyond its counts; empty if it does not


Reader = Callable[[Path], Listing]


@dataclass(frozen=True)
class Archive:
    """One file that an official site offers."""

    url: str
    md5: str | None = None  #: as the site or torchvision publishes it; None if neither does
    into: str = ""  #: subfolder of the dataset's folder that the file is unpacked or copied into

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Dataset:
    """One dataset: its name, how it is read, where it comes from and how the published protocol treats it."""

    name: str  #: as configs name it
    read: Reader  #: takes the dataset's folder, returns the images of both splits
    counts: Counts | None = None  #: official numbers; others are refused unless `data.subsets` names the dataset
    archives: tuple[Archive, ...] = ()  #: files that `trex data get` downloads
    download: Callable[[Path], None] | None = None  #: function that `trex data get` calls if there are no archives
    steps: str = ""  #: how to get the dataset by hand, if no program can download it
    folder: str | None = None  #: its folder in `data.root`, if the folder's name is not the dataset's name
    multi_label: bool = False  #: whether an image may have several classes
    needs_files: bool = True  #: False for a dataset that needs no folder
    normalized: bool = False  #: whether its features are L2-normalized for the probes
    published_fit: Fit = "L-BFGS"  #: how the published protocol fits its probes
