"""The index of a feature file: how it was made, and where its arrays are (docs/features.md).

This module reads and writes no files; `trex/features/index.py` does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from trex.records.base import Count, Record
from trex.records.typed import encode

#: Features with different values in one of these fields are different features. Run name and versions do not matter.
_DECISIVE = ("dataset", "split", "split_digest", "encoder_digest", "transform", "dtype")


@dataclass(frozen=True)
class FeatureProvenance:
    """How a feature file was made."""

    run: str
    dataset: str
    split: Literal["trainval", "test"]
    split_digest: str  #: SHA-256 of names, labels and classes
    encoder_digest: str  #: SHA-256 of the encoder's weights
    weights: str  #: where the weights came from, in words
    transform: str  #: how images were preprocessed
    dtype: Literal["float32", "float16"]
    comparable: bool  #: False if the dataset's counts are not the official ones
    versions: dict[str, str]  #: library versions
    skipped: Count = 0  #: broken images that have no feature (`data.broken_images=skip`)
    skipped_digest: str = ""  #: SHA-256 of their names; empty if there are none

    @property
    def images_digest(self) -> str:
        """A text that is equal for two files only if they have the same images with the same labels in their rows."""
        return f"{self.split_digest}-{self.skipped_digest}" if self.skipped else self.split_digest

    def differences(self, other: FeatureProvenance) -> list[str]:
        """One line per field that makes the features different, with the value here and the value of `other`."""
        return [
            f"{key}: {getattr(self, key)} and {getattr(other, key)}"
            for key in _DECISIVE
            if getattr(self, key) != getattr(other, key)
        ]


def names_digest(names: Sequence[str]) -> str:
    """SHA-256 of the names of skipped images; empty without any."""
    if not names:
        return ""
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True)
class ArrayPlace:
    """Where an array is in a feature file. It is contiguous there, in C order."""

    dtype: str  #: numpy's code with the byte order, such as `<f4`
    shape: tuple[Count, ...]
    offset: Count  #: bytes from the start of the file; 0 for an array without elements


@dataclass(frozen=True)
class FeatureIndex(Record):
    """All that is known about a feature file without reading its arrays."""

    FORMAT: ClassVar[int] = 6

    provenance: FeatureProvenance
    digest: str  #: SHA-256 of the arrays in the file: of the name, dtype, shape and bytes of each
    arrays: dict[str, ArrayPlace]

    def hdf5_attributes(self) -> dict[str, str | int | bool]:
        """Name and value of each HDF5 attribute, for other programs; this one reads only the index."""
        provenance = encode(self.provenance)
        assert isinstance(provenance, dict)
        versions = json.dumps(provenance["versions"], sort_keys=True)
        return {"format": self.FORMAT, **provenance, "versions": versions, "content_sha256": self.digest}
