"""What made a feature file, as its HDF5 attributes say (docs/features.md). Reads and writes no HDF5 itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from trex.records.base import Record, RecordError

#: Fields that make features other features. Names of runs and library versions do not.
_DECISIVE = ("dataset", "split", "split_digest", "encoder_digest", "transform", "dtype")


@dataclass(frozen=True)
class FeatureProvenance(Record):
    """What made a feature file."""

    FORMAT: ClassVar[int] = 3

    run: str
    dataset: str
    split: Literal["trainval", "test"]
    split_digest: str  #: SHA-256 of names, labels and classes
    encoder_digest: str  #: SHA-256 of the encoder's weights
    weights: str  #: where the weights came from, for people
    transform: str  #: what an image goes through
    dtype: Literal["float32", "float16"]
    comparable: bool  #: False where the dataset's counts are not the official ones
    versions: dict[str, str]  #: of libraries; a JSON text in the file

    def differences(self, other: FeatureProvenance) -> list[str]:
        """What makes the other's features different ones, one line per field: this one's value and the other's."""
        return [
            f"{key}: {getattr(self, key)} and {getattr(other, key)}"
            for key in _DECISIVE
            if getattr(self, key) != getattr(other, key)
        ]


@dataclass(frozen=True)
class FeatureAttributes:
    """All attributes of a feature file."""

    provenance: FeatureProvenance
    digest: str  #: SHA-256 of the bytes of its features

    def to_attributes(self) -> dict[str, object]:
        """Name and value of each attribute: texts, numbers, truth values."""
        return {
            **self.provenance.to_json(),
            "versions": json.dumps(self.provenance.versions, sort_keys=True),
            "features_sha256": self.digest,
        }

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, object], where: str) -> Self:
        """What the attributes of a file say.

        Args:
            attributes: of the file, as plain Python values.
            where: the file, for the message.

        Raises:
            RecordError: if one is missing, unknown or of another type, or the format is another one.
        """
        values = dict(attributes)
        digest, versions = values.pop("features_sha256", None), values.get("versions")
        if not isinstance(digest, str):
            raise RecordError(f"{where}: has no attribute 'features_sha256'; not a complete feature file")
        try:
            values["versions"] = json.loads(versions) if isinstance(versions, str) else versions
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{where}: attribute 'versions' is not JSON ({error})") from error
        return cls(FeatureProvenance.from_json(values, where), digest)
