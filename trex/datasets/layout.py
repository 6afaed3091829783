"""What the readers share: finding the folder within an unpacked archive, reading lists and MATLAB files.

People give the inner folder of an archive or the one around it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trex.errors import UserError

if TYPE_CHECKING:
    import numpy as np


def find_base(folder: Path, has: Sequence[str], inner: Sequence[str] = ()) -> Path:
    """The folder that holds all of `has`: `folder` itself, or one of the `inner` ones.

    Raises:
        UserError: if none does; says what was looked for, and what is there.
    """
    tried = [folder, *(folder / name for name in inner)]
    for base in tried:
        if all((base / name).exists() for name in has):
            return base
    places = ", ".join(str(base) for base in tried)
    raise UserError(f"expected {' and '.join(has)} in one of {places}; {_content(folder)}")


def find_file(names: Sequence[str], places: Sequence[Path]) -> Path:
    """The first of `names` that is in one of `places`. Raises UserError if none is."""
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
    """The words of each line that has any. Raises UserError if the file is not text."""
    return [line.split() for line in read_names(path)]


def read_names(path: Path) -> list[str]:
    """The lines of a text file, without surrounding spaces and without empty ones. Raises UserError if it is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable list ({error})") from error
    return [line.strip() for line in lines if line.strip()]


def label_of(name: str, ranks: Mapping[str, int], path: Path) -> int:
    """Rank of a class. Raises UserError that names the list if there is no such class."""
    if name not in ranks:
        raise UserError(f"{path}: names the class {name!r}, which is not one of the dataset's {len(ranks)}")
    return ranks[name]


def ranks_of(classes: Sequence[str]) -> dict[str, int]:
    """Label of each class name: its place."""
    return {name: rank for rank, name in enumerate(classes)}


def read_mat(path: Path, *keys: str) -> list[Any]:
    """Arrays of a MATLAB 5 file. Raises UserError if it is not one, or one of the arrays is missing."""
    import numpy as np
    from scipy.io import loadmat

    try:
        content = loadmat(path, squeeze_me=True)
        return [np.atleast_1d(content[key]) for key in keys]
    except Exception as error:  # a damaged file makes the reader fail in any way, zlib.error and IndexError among them
        raise UserError(f"{path}: not the expected MATLAB file with {', '.join(keys)} ({error})") from error


def check_labels(labels: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Raise UserError that names the file if a label, int (n,), is not the index of a class; the files count from 1."""
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(classes)):
        raise UserError(f"{path}: classes from {labels.min() + 1} to {labels.max() + 1}, expected 1 to {len(classes)}")
