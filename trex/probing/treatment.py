"""How the probes treat a dataset: L2 normalization, the optimizer of the published probes, one class or several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from trex.config.schema import ProbeConfig
from trex.datasets.registry import record


@dataclass(frozen=True)
class Treatment:
    """The settings of a dataset that the probes depend on."""

    normalize: bool  #: whether the features are L2-normalized
    sgd: bool  #: whether the published probes use SGD; otherwise L-BFGS
    multi_label: bool = False  #: whether an image may have several classes

    @classmethod
    def of(cls, dataset: str, config: ProbeConfig) -> Self:
        """The treatment of `dataset`: from the config if it is set there, otherwise from the dataset's record."""
        known = record(dataset)
        return cls(
            normalize=config.normalize.get(dataset, known.normalized),
            sgd=config.sgd.get(dataset, known.published_fit == "SGD"),
            multi_label=known.multi_label,
        )
