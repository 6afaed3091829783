"""`knn20`, `knn20-t0.1`: the 20 nearest neighbors by cosine similarity, weighted (trex/probing/knn.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trex.probing.kind import Fitted, Kind
from trex.probing.memory import FLOAT, PIECE, PROGRAM, Size
from trex.probing.treatment import Treatment
from trex.records.probe_result import Search

if TYPE_CHECKING:
    from trex.probing.dataset import ProbeDataset
    from trex.probing.partial import Partial

#: Version of the search for neighbors: results of another version are computed again.
NEIGHBORS = 2


@dataclass(frozen=True)
class Knn(Kind):
    """Nothing is trained, searched or random. All kinds of a dataset share one search for the neighbors."""

    k: int  #: neighbors that vote
    temperature: float = 0.07  #: a neighbor's weight is exp(similarity / temperature)

    @property
    def seeds_change(self) -> str:
        """Nothing."""
        return ""

    @property
    def neighbors(self) -> int:
        """The neighbors that it needs."""
        return self.k

    def fitted_by(self, treatment: Treatment) -> str:  # noqa: ARG002
        """The measure of similarity and the weights of the votes."""
        return f"cosine similarity, weights exp(similarity / {self.temperature:g}), version {NEIGHBORS}"

    def normalizes(self, treatment: Treatment) -> bool:  # noqa: ARG002
        """Always: the cosine similarity is the inner product of features of length 1."""
        return True

    def least_bytes(self, size: Size, treatment: Treatment) -> int:  # noqa: ARG002
        """RAM for the test features and their neighbors; the features of trainval are read in pieces."""
        found = min(self.k, size.trainval) * size.test * 3 * 8
        return PROGRAM + size.test * (size.dim + 1) * FLOAT + found + 6 * PIECE * FLOAT

    def fit(self, data: ProbeDataset, seed: int, partial: Partial) -> Fitted:  # noqa: ARG002
        """Classify the test images by votes of all trainval images."""
        from trex.probing.predictions import outcomes

        logits = data.neighbors.logits(self.k, self.temperature, data.classes)
        best = {"k": float(self.k), "temperature": self.temperature}
        found = outcomes(logits, data.test_labels)
        return Fitted(Search(best), found, train=len(data.labels), validation=0)
