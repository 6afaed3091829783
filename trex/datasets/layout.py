"""Functions that the readers share: find the dataset in an unpacked archive, read lists and MATLAB files.

Users name either the inner folder of an archive or the folder around it; both work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trex.errors import UserError

if TYPE_CHECKING:
    import numpy as np


def find_base(folder: Path, has: Sequence[str], inner: Sequence[str] = ()) -> Path:
    """Returns the folder that contains all of `has`: `folder` itself, or one of its subfolders `inner`.

    Raises:
        UserError: if no folder does; the message says what was expected and what was found.
    """
    tried = [folder, *(folder / name for name in inner)]
    for base in tried:
        if all((base / name).exists() for name in has):
            return base
    places = ", ".join(str(base) for base in tried)
    raise UserError(f"expected {' and '.join(has)} in one of {places}; {_content(folder)}")


def find_file(names: Sequence[str], places: Sequence[Path]) -> Path:
    """Returns the first file of `names` that exists in one of the folders `places`. Raises UserError if none exists."""
    for place in places:
        for name in names:
            if (place / name).is_file():
                return place / name
    where = ", ".join(str(place) for place in places)
    raise UserError(f"expected a file {' or '.join(names)} in one of {where}; {_content(places[0])}")


def _content(folder: Path) -> str:
    found = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    shown = ", ".join(found[:8]) + (", …" if len(found) > 8 else "")
    return f"found {shown or 'nothing'} in {folder}"


def read_words(path: Path) -> list[list[str]]:
    """The words of each line that is not empty. Raises UserError if the file is not a text file."""
    return [line.split() for line in read_names(path)]


def read_names(path: Path) -> list[str]:
    """The lines of a text file that are not empty, stripped. Raises UserError if the file is not a text file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from error
    return [line.strip() for line in lines if line.strip()]


def label_of_class(name: str, label_of: Mapping[str, int], path: Path) -> int:
    """Label of the class `name`. Raises UserError if no class has this name; the message names the file `path`."""
    if name not in label_of:
        raise UserError(f"{path}: names the class {name!r}, which is not one of the dataset's {len(label_of)} classes")
    return label_of[name]


def labels_by_name(classes: Sequence[str]) -> dict[str, int]:
    """Label of each class name: its index in `classes`."""
    return {name: label for label, name in enumerate(classes)}


def read_mat(path: Path, *keys: str) -> list[Any]:
    """The arrays `keys` of a MATLAB 5 file. Raises UserError if the file is damaged or one of the arrays is missing."""
    import numpy as np
    from scipy.io import loadmat

    try:
        content = loadmat(path, squeeze_me=True)
        return [np.atleast_1d(content[key]) for key in keys]
    except Exception as error:  # the reader raises many types for damaged files, such as zlib.error and IndexError
        raise UserError(f"{path}: expected a MATLAB file with {', '.join(keys)} ({error})") from error


def check_labels(labels: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Check that each label, int (n,), is the index of a class.

    Raises:
        UserError: if one is not. The message counts from 1, as the file `path` does.
    """
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(classes)):
        raise UserError(
            f"{path}: found class numbers {labels.min() + 1} to {labels.max() + 1}, expected 1 to {len(classes)}"
        )
