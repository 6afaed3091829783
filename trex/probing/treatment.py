"""How the probes treat the features of a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from trex.config.schema import ProbeConfig
from trex.datasets.registry import record


@dataclass(frozen=True)
class Treatment:
    """What a kind of probe must know of a dataset besides its features."""

    normalize: bool  #: whether its features are L2-normalized
    sgd: bool  #: whether the published probes fit it by SGD; else by L-BFGS

    @classmethod
    def of(cls, dataset: str, config: ProbeConfig) -> Self:
        """The treatment of `dataset`: what the config says, else what the dataset's record says."""
        known = record(dataset)
        return cls(
            normalize=config.normalize.get(dataset, known.normalized),
            sgd=config.sgd.get(dataset, known.published_fit == "SGD"),
        )
