"""The provenance of a feature file, stored in its HDF5 attributes (docs/features.md).

This module does not read or write HDF5 itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from trex.records.base import Count, Record, RecordError

#: Features with different values in one of these fields are different features. Run name and versions do not matter.
_DECISIVE = ("dataset", "split", "split_digest", "encoder_digest", "transform", "dtype")


@dataclass(frozen=True)
class FeatureProvenance(Record):
    """How a feature file was made."""

    FORMAT: ClassVar[int] = 5

    run: str
    dataset: str
    split: Literal["trainval", "test"]
    split_digest: str  #: SHA-256 of names, labels and classes
    encoder_digest: str  #: SHA-256 of the encoder's weights
    weights: str  #: where the weights came from, in words
    transform: str  #: how images were preprocessed
    dtype: Literal["float32", "float16"]
    comparable: bool  #: False if the dataset's counts are not the official ones
    versions: dict[str, str]  #: library versions; stored as JSON text in the file
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
class FeatureAttributes:
    """All attributes of a feature file."""

    provenance: FeatureProvenance
    digest: str  #: SHA-256 of the arrays in the file: of the name, dtype, shape and bytes of each

    def to_attributes(self) -> dict[str, object]:
        """Name and value of each attribute: strings, numbers and booleans."""
        return {
            **self.provenance.to_json(),
            "versions": json.dumps(self.provenance.versions, sort_keys=True),
            "content_sha256": self.digest,
        }

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, object], where: str) -> Self:
        """Convert the attributes of a file to this record.

        Args:
            attributes: the file's attributes, as plain Python values.
            where: the file, for error messages.

        Raises:
            RecordError: if an attribute is missing, unknown or of another type, or the format number is different.
        """
        values = dict(attributes)
        digest, versions = values.pop("content_sha256", None), values.get("versions")
        try:
            values["versions"] = json.loads(versions) if isinstance(versions, str) else versions
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{where}: attribute 'versions' is not JSON ({error})") from error
        provenance = FeatureProvenance.from_json(values, where)
        if not isinstance(digest, str):
            raise RecordError(f"{where}: has no attribute 'content_sha256', so it is not a complete feature file")
        return cls(provenance, digest)
