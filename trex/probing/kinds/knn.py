"""`knn20`: the 20 nearest neighbors by cosine similarity, weighted (trex/probing/knn.py)."""

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


@dataclass(frozen=True)
class Knn(Kind):
    """Nothing is trained or searched, and the result does not depend on the seed."""

    k: int  #: neighbors that vote

    @property
    def seeds_change(self) -> str:
        """Nothing."""
        return ""

    def fitted_by(self, treatment: Treatment) -> str:  # noqa: ARG002
        """The measure of similarity."""
        return "cosine similarity"

    def normalizes(self, treatment: Treatment) -> bool:  # noqa: ARG002
        """Always: the cosine similarity is the inner product of features of length 1."""
        return True

    def least_bytes(self, size: Size, treatment: Treatment) -> int:  # noqa: ARG002
        """RAM for the test features; the features of trainval are read in pieces."""
        return PROGRAM + size.test * (size.dim + 1) * FLOAT + 6 * PIECE * FLOAT

    def fit(self, data: ProbeDataset, seed: int, partial: Partial) -> Fitted:  # noqa: ARG002
        """Classify the test images by votes of all trainval images."""
        from trex.probing.knn import knn_logits
        from trex.probing.predictions import outcomes

        logits = knn_logits(data.rows, data.labels, data.test_rows, self.k, data.classes, data.stop)
        found = outcomes(logits, data.test_labels)
        return Fitted(Search({"k": float(self.k)}), found, train=len(data.labels), validation=0)
