"""What a kind of probe is. Each kind is one class in trex/probing/kinds/, named in trex/config/probe_kinds.py.

Submitting asks kinds for their memory and their provenance: this module and the kinds import torch and numpy only
inside `fit`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trex.config.probe_kinds import PROBE_KINDS, parse_probe_name
from trex.config.schema import ProbeConfig
from trex.probing.memory import Size, require
from trex.probing.treatment import Treatment
from trex.records.feature_provenance import FeatureAttributes
from trex.records.probe_result import ProbeProvenance, Search

if TYPE_CHECKING:
    import numpy as np

    from trex.probing.dataset import ProbeDataset
    from trex.probing.partial import Partial


@dataclass(frozen=True)
class Fitted:
    """What `Kind.fit` found."""

    search: Search
    predicted: np.ndarray  #: (n_test,) int64, a class for each test image
    train: int  #: images that it was trained on while searching
    validation: int  #: images of trainval that only chose the hyper-parameters


@dataclass(frozen=True)
class Kind(ABC):
    """One kind of probe. A subclass adds the numbers in its name as fields, such as `shots`."""

    name: str  #: in the config, the run folder and the tables

    #: Whether the seeds of a dataset share costly work, so that one Slurm job should do them all.
    seeds_share_work: ClassVar[bool] = True

    @abstractmethod
    def fitted_by(self, treatment: Treatment) -> str:
        """Words for how it fits, a part of a result's provenance: results with other words are computed again."""

    @abstractmethod
    def least_bytes(self, size: Size, treatment: Treatment) -> int:
        """RAM without which it cannot be fitted."""

    @abstractmethod
    def fit(self, data: ProbeDataset, seed: int, partial: Partial) -> Fitted:
        """Choose the hyper-parameters on trainval, fit with the best of them, classify the test images.

        Args:
            data: the features of a dataset, and what the kinds share.
            seed: of all that is random.
            partial: what an interrupted call with the same arguments has found, and where this one keeps what it finds.

        Raises:
            Interrupted: if asked to stop; `partial` holds what is done.
        """

    def normalizes(self, treatment: Treatment) -> bool:
        """Whether it L2-normalizes each feature."""
        return treatment.normalize

    def used_bytes(self, size: Size, treatment: Treatment, limit: float) -> int:
        """RAM that it takes when it may take `limit` bytes. Raises UserError if that is too little."""
        return require(self.least_bytes(size, treatment), limit)

    def provenance(self, treatment: Treatment, trainval: FeatureAttributes, test: FeatureAttributes) -> ProbeProvenance:
        """What a result of this kind is made from, with these features."""
        made_by = trainval.provenance
        return ProbeProvenance(
            trainval_digest=trainval.digest,
            test_digest=test.digest,
            encoder_digest=made_by.encoder_digest,
            weights=made_by.weights,
            dtype=made_by.dtype,
            normalized=self.normalizes(treatment),
            fitted_by=self.fitted_by(treatment),
        )


def kind_of(name: str) -> Kind:
    """The kind of probe with this name. Raises ValueError if there is none; a loaded config has no such name."""
    parsed = parse_probe_name(name)
    module, _, cls = PROBE_KINDS[parsed.form].partition(":")
    made: Kind = getattr(importlib.import_module(module), cls)(parsed.text, **parsed.numbers)
    return made


def kinds_of(config: ProbeConfig) -> tuple[Kind, ...]:
    """The kinds of probes that a config asks for."""
    return tuple(kind_of(name) for name in config.kinds)
