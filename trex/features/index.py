"""The index at the start of a feature file, which is all that is read before the arrays are mapped (docs/features.md).

HDF5 leaves the first bytes of a file to its user (the "user block"). A feature file has its index there, in two lines
of text: the size and SHA-256 of the index, and the index as JSON. So files are read without the HDF5 library, in which
damaged or hostile structures can cause endless loops and crashes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from trex.errors import UserError
from trex.records.base import RecordError
from trex.records.feature_provenance import FeatureIndex
from trex.stand_ins import require_file, stand_in

_HEADER = b"trex feature file, index of %08d bytes, SHA-256 %s\n"
_PATTERN = re.compile(rb"trex feature file, index of (\d{8}) bytes, SHA-256 ([0-9a-f]{64})\n")
_HEADER_SIZE = len(_HEADER % (0, b"0" * 64))
_MAX_SIZE = 1 << 20  #: the most bytes of an index
_MIN_BLOCK = 512  #: HDF5 looks for its own start at 0, 512 and the following powers of two
_HDF5 = b"\x89HDF\r\n\x1a\n"


def user_block(index: FeatureIndex) -> int:
    """Bytes that a file needs for this index: a power of two."""
    return max(_MIN_BLOCK, 1 << (len(_encoded(index)) - 1).bit_length())


def write_index(path: Path, index: FeatureIndex) -> None:
    """Write the index to the user block of a file that has one of sufficient size."""
    with path.open("r+b") as file:
        file.write(_encoded(index))


def read_index(path: Path) -> FeatureIndex:
    """Read the index of a feature file. This neither reads the arrays nor checks where they are.

    Raises:
        UserError: if the file is missing, damaged or of another format.
    """
    try:
        require_file(path)
        with path.open("rb") as file:
            header = file.read(_HEADER_SIZE)
            match = _PATTERN.fullmatch(header)
            if match is None:
                raise UserError(f"{path}: {_other_file(header)}. Delete it and extract again.")
            text = file.read(min(int(match[1]), _MAX_SIZE))
    except FileNotFoundError:
        raise UserError(f"{path}: this feature file does not exist. Extract the features first.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if hashlib.sha256(text).hexdigest().encode() != match[2]:
        raise UserError(
            f"{path}: damaged: its index has another SHA-256 than when it was written. Delete it and extract again."
        )
    try:
        return FeatureIndex.parse(text, str(path))
    except RecordError as error:
        raise UserError(f"{error}. Delete the file and extract again.") from error


def other_features(path: Path, differences: Iterable[str]) -> UserError:
    """The error for a file with other features than the wanted ones; `differences` has one line per difference."""
    listed = "\n".join(f"  {difference}" for difference in differences)
    return UserError(
        f"{path} holds features made by something else (wanted and found):\n{listed}\n"
        f"To extract again, delete this file, or everything in {path.parents[1]}. "
        f"To keep both, give this run another name (name=…)."
    )


def _encoded(index: FeatureIndex) -> bytes:
    text = json.dumps(index.to_json(), allow_nan=False, ensure_ascii=False).encode() + b"\n"
    if len(text) > _MAX_SIZE:
        raise ValueError(f"the index of a feature file has {len(text)} bytes, the most are {_MAX_SIZE}")
    return _HEADER % (len(text), hashlib.sha256(text).hexdigest().encode()) + text


def _other_file(header: bytes) -> str:
    if header.startswith(_HDF5):
        return "an HDF5 file without the index of a feature file: made by an older version, or by another program"
    return stand_in(header) or "not a feature file"
