"""The interface of the kinds of probes. Each is one class in trex/probing/kinds/, listed in trex/config/probe_kinds.py.

The memory and the provenance of a probe are needed when jobs are submitted, which imports neither torch nor numpy. So
this module and the kinds import them only inside `fit`.
"""

from __future__ import annotations

import functools
import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trex.config.probe_kinds import PROBE_KINDS, parse_probe_name
from trex.config.schema import ProbeConfig
from trex.datasets.registry import record
from trex.probing.memory import Size, require
from trex.probing.treatment import Treatment
from trex.records.feature_provenance import FeatureIndex
from trex.records.probe_result import ProbeProvenance, Search

if TYPE_CHECKING:
    from trex.probing.dataset import ProbeDataset
    from trex.probing.partial import Partial
    from trex.probing.predictions import Outcomes
    from trex.probing.rankings import Rankings


@dataclass(frozen=True)
class Fitted:
    """The result of `Kind.fit`."""

    search: Search
    outcomes: Outcomes | Rankings  #: the predictions for the test images; their ranks in a multi-label dataset
    train: int  #: images that it was trained on during the search
    validation: int  #: images of trainval that were used only to choose the hyper-parameters


@dataclass(frozen=True)
class Kind(ABC):
    """One kind of probe. A subclass has one field for each number in its name, such as `shots`."""

    name: str  #: as in the config, the run folder and the tables

    #: Whether the seeds of a dataset share expensive work, so that one Slurm job should run them all.
    seeds_share_work: ClassVar[bool] = True

    @property
    @abstractmethod
    def seeds_change(self) -> str:
        """What differs between its seeds, in words that follow "seeds differ in"; "" if nothing does."""

    @property
    def neighbors(self) -> int:
        """The nearest training images of each test image that it needs."""
        return 0

    @property
    def fits_multi_label(self) -> bool:
        """Whether it can be fitted on a dataset whose images have several classes. Others are not run there."""
        return False

    def runs(self, seed: int) -> bool:
        """Whether it is fitted with this seed. If the seeds change nothing, only seed 0 is."""
        return seed == 0 or self.seeds_change != ""

    @abstractmethod
    def fitted_by(self, treatment: Treatment) -> str:
        """A text that names the solver. It is part of the provenance: if it changes, results are computed again."""

    @abstractmethod
    def least_bytes(self, size: Size, treatment: Treatment) -> int:
        """The least RAM with which it can be fitted, bytes."""

    @abstractmethod
    def fit(self, data: ProbeDataset, seed: int, partial: Partial) -> Fitted:
        """Choose the hyper-parameters on trainval, fit all of trainval with them, and classify the test images.

        Args:
            data: the features of a dataset, and the work that the kinds share.
            seed: the seed of everything random.
            partial: the progress of an interrupted call with the same arguments; this call continues from there and
                stores its own progress in it.

        Raises:
            Interrupted: if asked to stop; `partial` then holds the progress.
        """

    def normalizes(self, treatment: Treatment) -> bool:
        """Whether it L2-normalizes each feature."""
        return treatment.normalize

    def used_bytes(self, size: Size, treatment: Treatment, limit: float) -> int:
        """The RAM that it uses if it may use `limit` bytes, bytes. Raises UserError if `limit` is too small."""
        return require(self.least_bytes(size, treatment), limit)

    def provenance(self, treatment: Treatment, trainval: FeatureIndex, test: FeatureIndex) -> ProbeProvenance:
        """The provenance of a result of this kind on the features with these indices."""
        made_by = trainval.provenance
        return ProbeProvenance(
            trainval_digest=trainval.digest,
            test_digest=test.digest,
            test_images=test.provenance.images_digest,
            encoder_digest=made_by.encoder_digest,
            weights=made_by.weights,
            transform=made_by.transform,
            dtype=made_by.dtype,
            normalized=self.normalizes(treatment),
            fitted_by=self.fitted_by(treatment),
        )


@functools.cache
def kind_of(name: str) -> Kind:
    """The kind of probe with this name. Raises ValueError for an unknown name; the config loader refuses those."""
    parsed = parse_probe_name(name)
    module, _, cls = PROBE_KINDS[parsed.form].partition(":")
    made: Kind = getattr(importlib.import_module(module), cls)(parsed.text, **parsed.numbers)
    return made


def kinds_of(config: ProbeConfig, dataset: str) -> tuple[Kind, ...]:
    """The kinds of probes that a config asks for and that can be fitted on a dataset."""
    kinds = tuple(kind_of(name) for name in config.kinds)
    return tuple(kind for kind in kinds if kind.fits_multi_label) if record(dataset).multi_label else kinds


def left_out(config: ProbeConfig, dataset: str) -> str:
    """A sentence about the kinds in the config that cannot be fitted on a dataset; "" if there are none."""
    fitted = [kind.name for kind in kinds_of(config, dataset)]
    others = [name for name in config.kinds if name not in fitted]
    if not others:
        return ""
    return (
        f"{dataset}: an image may have several classes, and only the kind exact can be fitted on such a dataset, not "
        f"{', '.join(others)}"
    )
