"""Reads any classification dataset of torchvision, named by its class: `torchvision:CIFAR10`.

torchvision's classes share no interface beyond indexing. The splits follow from the constructor's parameters: `train`
is True or False; `split` is a name, and each class accepts different names. Images are read through the class, in the
process that needs them, so the pixels are those that torchvision returns.

This module imports nothing heavy before a dataset is read.
"""

from __future__ import annotations

import functools
import inspect
import operator
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trex.datasets.record import Dataset, Listing, SplitListing
from trex.errors import TrexError, UserError
from trex.wording import did_you_mean

if TYPE_CHECKING:
    from trex.images.decode import RGB

PREFIX = "torchvision:"
#: The folder in `data.root` that holds one folder per class of torchvision.
FOLDER = "torchvision"
_MOST_CLASSES = 1_000_000  #: of a class without class names: more can only be a damaged label

#: Attributes in which the classes keep one label, or one pair (image, label), per image.
_LABELS = ("targets", "labels", "_labels", "_samples")
#: Attributes in which the classes keep one path, or one pair (path, label), per image.
_FILES = ("samples", "_image_files", "_images", "_samples")

Argument = tuple[str, str | bool]  #: name and value of the constructor's argument that selects a split
Open = Callable[[Argument], Any]


def record(name: str) -> Dataset:
    """The record of `torchvision:<class>`. Does not check that the class exists; the counts are unknown."""
    folder = f"{FOLDER}/{name.removeprefix(PREFIX)}"
    return Dataset(name, partial(read, name), download=partial(download, name), folder=folder)


def read(name: str, folder: Path) -> Listing:
    """Read both splits. docs/datasets.md says which of torchvision's splits become trainval and test.

    Raises:
        UserError: if torchvision has no such class, the class has no train and test split or no label per image, or
            its files are missing or damaged.
    """
    found = _class(name)
    trainval, test = _splits(name, _selected_by(name, found), partial(_opened, name, str(folder)))
    try:
        listed = [_listed(name, folder, arguments) for arguments in (trainval, test)]
        classes = _classes(name, folder, (*trainval, *test), max((*listed[0].labels, *listed[1].labels), default=-1))
    except TrexError:
        raise
    except Exception as error:
        raise _unreadable(name, folder, error) from error
    return Listing(classes, listed[0], listed[1], folder=folder)


def download(name: str, folder: Path) -> None:
    """Let torchvision download the files that are missing in `folder`.

    Raises:
        UserError: if torchvision has no such class, the class cannot be used here, or torchvision cannot download it.
        TrexError: if the download fails.
    """
    found = _class(name)
    key = _selected_by(name, found)
    constructors = [vars(base)["__init__"] for base in found.__mro__ if base is not object and "__init__" in vars(base)]
    if not any("download" in inspect.signature(constructor).parameters for constructor in constructors):
        raise UserError(
            f"torchvision does not download {name}. Put its files into {folder.absolute()}, as described at "
            f"https://docs.pytorch.org/vision/stable/generated/torchvision.datasets.{found.__name__}.html"
        )
    folder.mkdir(parents=True, exist_ok=True)

    def fetch(argument: Argument) -> Any:
        try:
            return _opened(name, str(folder), argument)
        except UserError:
            return _construct(found, str(folder), argument, download=True)

    try:
        _splits(name, key, fetch)
    except TrexError:
        raise
    except Exception as error:  # the classes pass on any exception of their downloads and archives
        raise TrexError(f"{name}: torchvision could not download it ({error})") from error


@dataclass(frozen=True)
class TorchvisionImages:
    """Reads the images of a split by index. It is small when pickled: each process opens the dataset again."""

    name: str
    folder: str
    arguments: tuple[Argument, ...]  #: selects torchvision's splits, whose images follow one after the other

    def __getitem__(self, index: int) -> RGB:
        """Image `index` as RGB: uint8 (H, W, 3). Raises ImageFault that names the dataset and the image."""
        import numpy as np

        from trex.images.decode import fault_of

        for argument in self.arguments:
            opened = _opened(self.name, self.folder, argument)
            if index < len(opened):
                try:
                    return np.array(opened[index][0].convert("RGB"))
                except Exception as error:  # each class reads images in its own way and may raise any exception
                    what = f"{self.name} in {self.folder}: {_split_name(argument)} image {index}"
                    raise fault_of(what, error) from error
            index -= len(opened)
        raise IndexError(index)


def _class(name: str) -> type[Any]:
    from torch.utils import data
    from torchvision import datasets

    members = {member: getattr(datasets, member) for member in datasets.__all__}
    known = {
        key: value for key, value in members.items() if isinstance(value, type) and issubclass(value, data.Dataset)
    }
    wanted = name.removeprefix(PREFIX)
    if wanted not in known:
        raise UserError(
            f"{name}: torchvision has no dataset class {wanted!r} (all classes: "
            f"https://docs.pytorch.org/vision/stable/datasets.html){did_you_mean(wanted, known)}"
        )
    found: type[Any] = known[wanted]
    return found


def _selected_by(name: str, found: type[Any]) -> str:
    """The constructor's parameter that selects a split: `train` or `split`. Raises UserError if there is neither."""
    parameters = inspect.signature(found).parameters
    needed = [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD and key != "root"
    ]
    if needed:
        raise UserError(
            f"{name}: torchvision's class needs more than a folder ({', '.join(needed)}), so it cannot be used here. "
            f"Put the images into an image folder (docs/datasets.md)"
        )
    for key in ("train", "split"):
        if key in parameters and "root" in parameters:
            return key
    raise UserError(
        f"{name}: torchvision's class has no train and test split, so it cannot be used here. Put the images into an "
        f"image folder (docs/datasets.md)"
    )


def _splits(name: str, key: str, open_: Open) -> tuple[tuple[Argument, ...], tuple[Argument, ...]]:
    """The arguments that select trainval and test. `open_` returns None for a split that the class does not have."""
    if key == "train":
        for value in (True, False):
            open_((key, value))
        return ((key, True),), ((key, False),)

    def has(split: str) -> bool:
        return open_((key, split)) is not None

    train: list[str] = []
    if has("trainval"):
        train = ["trainval"]
    elif has("train"):
        train = ["train", *(split for split in ("val", "valid") if has(split))]
    test = "test" if train and has("test") else train.pop() if len(train) > 1 else ""
    if not test:
        raise UserError(
            f"{name}: torchvision's class has no train and test split, so it cannot be used here. Put the images into "
            f"an image folder (docs/datasets.md)"
        )
    return tuple((key, split) for split in train), ((key, test),)


@functools.lru_cache(maxsize=8)
def _opened(name: str, folder: str, argument: Argument) -> Any:
    """torchvision's dataset, opened once per process; None if the class has no such split."""
    try:
        return _construct(_class(name), folder, argument)
    except TrexError:
        raise
    except Exception as error:  # the classes may raise any exception for missing or damaged files
        raise _unreadable(name, Path(folder), error) from error


def _construct(found: type[Any], folder: str, argument: Argument, **more: bool) -> Any:
    if hasattr(tarfile, "data_filter"):  # of 3.11.4: refuses members outside the folder, as every Python from 3.14 on
        tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        return found(folder, **{argument[0]: argument[1]}, **more)
    except ValueError as error:
        if "Unknown value" in str(error):  # raised by torchvision.datasets.utils.verify_str_arg
            return None
        raise


def _unreadable(name: str, folder: Path, error: Exception) -> UserError:
    return UserError(
        f"{name} in {folder.absolute()}: torchvision cannot read it ({str(error) or type(error).__name__}). `trex data "
        f"get {name}` downloads it; if it is elsewhere, set data.root=… or data.folders.{name}=…"
    )


def _listed(name: str, folder: Path, arguments: tuple[Argument, ...]) -> SplitListing:
    names: list[str] = []
    labels: list[int] = []
    for argument in arguments:
        opened = _opened(name, str(folder), argument)
        names += _names(opened, folder, _split_name(argument))
        labels += _labels(opened, name)
    return SplitListing(names, labels, TorchvisionImages(name, str(folder), arguments))


def _split_name(argument: Argument) -> str:
    key, value = argument
    return str(value) if key == "split" else "train" if value else "test"


def _names(opened: Any, folder: Path, split: str) -> list[str]:
    """Paths relative to the folder; `<split>/<number>` for images that are not files."""
    for attribute in _FILES:
        files = [entry[0] if isinstance(entry, tuple) else entry for entry in getattr(opened, attribute, ())]
        if len(files) == len(opened) and all(isinstance(file, str | Path) for file in files):
            return [str(file).removeprefix(f"{folder}/") for file in files]
    return [f"{split}/{index:06d}" for index in range(len(opened))]


def _labels(opened: Any, name: str) -> list[int]:
    """The label of each image. Uses the class's list of labels if its ends agree with the labels of those images."""
    count = len(opened)
    for attribute in _LABELS:
        entries = getattr(opened, attribute, ())
        if len(entries) == count > 0:
            labels = _whole_numbers(entry[1] if isinstance(entry, tuple) else entry for entry in entries)
            ends = _whole_numbers((opened[0][1], opened[-1 % count][1]))
            if labels is not None and ends == [labels[0], labels[-1]]:
                return labels
    labels = _whole_numbers(opened[index][1] for index in range(count))
    if labels is None:
        raise UserError(
            f"{name}: torchvision's class does not give one class label per image, so it cannot be used here"
        )
    return labels


def _whole_numbers(values: Iterable[Any]) -> list[int] | None:
    """The values as integers ≥ 0; None if any value is something else."""
    try:
        numbers = [operator.index(value) for value in values]
    except TypeError:
        return None
    return numbers if min(numbers, default=0) >= 0 else None


def _classes(name: str, folder: Path, arguments: tuple[Argument, ...], highest: int) -> tuple[str, ...]:
    """The names of the classes, or numbers if torchvision has no names. All splits must have the same names."""
    lists = [getattr(_opened(name, str(folder), argument), "classes", None) for argument in arguments]
    named = {tuple(_text(entry) for entry in found) for found in lists if found is not None}
    if len(named) > 1:
        raise UserError(f"{name} in {folder}: its splits have different classes, expected the same in all")
    for classes in named:
        if len(classes) > highest:
            return classes
    if highest >= _MOST_CLASSES:
        raise UserError(f"{name} in {folder}: has a label {highest}, expected less than {_MOST_CLASSES}")
    return tuple(str(label) for label in range(highest + 1))


def _text(entry: Any) -> str:
    """A class name as one string; ImageNet's names are tuples of synonyms."""
    return ", ".join(map(str, entry)) if isinstance(entry, tuple | list) else str(entry)
