"""Changes feature files as other weights, damage and attacks would."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trex.features.index import read_index, write_index
from trex.features.store import Contents, open_features, write_features


def relabel(path: Path, **changes: Any) -> None:
    """Write a feature file again with another provenance."""
    found = open_features(path)
    features, provenance = np.array(found.features), replace(found.provenance, **changes)
    contents = Contents(features.shape, found.labels, found.names, found.classes, provenance, found.skipped)
    write_features(path, [features], contents)


def overwrite(path: Path, key: str, values: np.ndarray) -> None:
    """Overwrite the first elements of an array, as damage would: its digest stays as it was."""
    place = read_index(path).arrays[key]
    with path.open("r+b") as file:
        file.seek(place.offset)
        file.write(values.astype(place.dtype).tobytes())


def move(path: Path, key: str, **changes: Any) -> None:
    """Write another place of an array into the index, with the SHA-256 that belongs to it, as an attacker would."""
    index = read_index(path)
    write_index(path, replace(index, arrays={**index.arrays, key: replace(index.arrays[key], **changes)}))


def forge(path: Path, text: bytes) -> None:
    """Write any bytes as the index, with their size and SHA-256."""
    digest = hashlib.sha256(text).hexdigest().encode()
    with path.open("r+b") as file:
        file.write(b"trex feature file, index of %08d bytes, SHA-256 %s\n" % (len(text), digest) + text)
