"""Functions that the readers share: find the dataset in an unpacked archive, read lists and MATLAB files.

Users name either the inner folder of an archive or the folder around it; both work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trex.errors import UserError
from trex.stand_ins import SIZE, read_file, stand_in, stand_in_at

if TYPE_CHECKING:
    import numpy as np


#: The largest number that a list or an annotation file may contain: no dataset has more images or classes.
_MOST = 10**9


def find_base(folder: Path, has: Sequence[str], inner: Sequence[str] = ()) -> Path:
    """Returns the folder that contains all of `has`: `folder` itself, or one of its subfolders `inner`.

    Raises:
        UserError: if no folder does; the message says what was expected, what was found, and what is missing.
    """
    tried = [folder, *(folder / name for name in inner)]
    missing = {base: [name for name in has if not (base / name).exists()] for base in tried}
    for base in tried:
        if not missing[base]:
            return base
    places = ", ".join(str(base) for base in tried)
    nearest = min(tried, key=lambda base: len(missing[base]))
    lack = f"; {nearest} has no {' and no '.join(missing[nearest])}" if len(missing[nearest]) < len(has) else ""
    raise UserError(f"expected {' and '.join(has)} in one of {places}; {_content(folder)}{lack}")


def find_class_folders(folder: Path, classes: Sequence[str], inner: Sequence[str] = ()) -> Path:
    """Returns the folder that contains a folder of at least one class: `folder`, or one of its subfolders `inner`.

    Raises:
        UserError: if no folder does; the message says what was expected and what was found.
    """
    tried = [folder, *(folder / name for name in inner)]
    for base in tried:
        if any((base / name).is_dir() for name in classes):
            return base
    places = ", ".join(str(base) for base in tried)
    raise UserError(
        f"expected a folder per class, {classes[0]}/ … {classes[-1]}/, in one of {places}; {_content(folder)}"
    )


def find_image_base(names: Iterable[str], places: Sequence[Path]) -> Path | None:
    """Returns the first folder in which at least one of the folders of the images `names` exists; None if none does.

    The images themselves may be missing: a subset may lack any of them.
    """
    parents = {name.rpartition("/")[0] for name in names}
    return next((base for base in places if any((base / parent).is_dir() for parent in parents)), None)


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


def read_words(path: Path) -> list[tuple[int, list[str]]]:
    """Number and words of each line that is not empty. Raises UserError if the file is not a text file."""
    return [(number, line.split()) for number, line in enumerate(_lines(path), start=1) if line.strip()]


def read_names(path: Path) -> list[str]:
    """The lines of a text file that are not empty, stripped. Raises UserError if the file is not a text file."""
    return [line.strip() for line in _lines(path) if line.strip()]


def _lines(path: Path) -> list[str]:
    try:
        if found := stand_in_at(path):
            raise UserError(f"{path}: {found}")
        text = path.read_text(encoding="utf-8")
        if "\0" in text:
            raise UserError(f"{path}: cannot be read as text (it has NUL bytes, expected UTF-8)")
        return text.splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from error


def whole_number(text: str, low: int, high: int) -> int | None:
    """The number `text`, in decimal digits with an optional minus; None if it is no such number in `low` … `high`."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= len(str(_MOST))):
        return None
    return int(text) if low <= int(text) <= high else None


def label_of_class(name: str, label_of: Mapping[str, int], path: Path) -> int:
    """Label of the class `name`. Raises UserError if no class has this name; the message names the file `path`."""
    if name not in label_of:
        raise UserError(f"{path}: names the class {name!r}, which is not one of the dataset's {len(label_of)} classes")
    return label_of[name]


def labels_by_name(classes: Sequence[str], path: Path) -> dict[str, int]:
    """Label of each class name: its index in `classes`. Raises UserError, which names the file, for a name twice."""
    label_of: dict[str, int] = {}
    for label, name in enumerate(classes):
        if label_of.setdefault(name, label) != label:
            raise UserError(f"{path}: names the class {name!r} twice, expected each class once")
    return label_of


def read_mat(path: Path, *keys: str) -> list[Any]:
    """The arrays `keys` of a MATLAB 5 file. Raises UserError if the file is damaged or one of the arrays is missing."""
    import numpy as np

    from trex.datasets.matlab import read_variables

    try:
        content = read_file(path)
        if found := stand_in(content[:SIZE]):
            raise UserError(f"{path}: {found}")
        variables = read_variables(content)
        return [np.atleast_1d(variables[key]) for key in keys]
    except UserError:
        raise
    except Exception as error:  # damage gives many types, such as zlib.error, StopIteration and IndexError
        raise UserError(f"{path}: expected a MATLAB file with {', '.join(keys)} ({error})") from error


def whole_numbers(values: Any, path: Path, field: str, high: int = _MOST, low: int = 1) -> np.ndarray:
    """The entries of a MATLAB array, or of one column of a struct array, as int64 (n,).

    Raises:
        UserError: if an entry is not a whole number in `low` … `high`; the message names the file, the field and the
            entry, counted from 1.
    """
    import numpy as np

    numbers = []
    for place, value in enumerate(values, start=1):
        entry = np.asarray(value)
        is_number = entry.size == 1 and entry.dtype.kind in "buif"
        number = entry.item() if is_number else value
        if not (is_number and low <= number <= high and number == int(number)):
            expected = f"a whole number from {low} to {high}" if high < _MOST else f"a whole number of at least {low}"
            raise UserError(f"{path}: {field}: entry {place} is {str(number)[:60]!r}, expected {expected}")
        numbers.append(int(number))
    return np.array(numbers, dtype=np.int64)
