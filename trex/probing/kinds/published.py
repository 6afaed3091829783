"""`published`, `published-5shot`: the search of the paper, for comparable numbers (trex/probing/published.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trex.probing.kind import Fitted, Kind
from trex.probing.memory import FLOAT, PIECE, PROGRAM, Size
from trex.probing.treatment import Treatment

if TYPE_CHECKING:
    from trex.probing.dataset import ProbeDataset
    from trex.probing.partial import Partial

#: Version of the search and of its validation images: results of another version are computed again.
SEARCH = 2


@dataclass(frozen=True)
class Published(Kind):
    """Thirty fits, by SGD on the large datasets, by scikit-learn's L-BFGS on the small ones. Seeds share no work."""

    shots: int | None = None  #: training images per class; None: all

    seeds_share_work: ClassVar[bool] = False

    @property
    def seeds_change(self) -> str:
        """The folds and the search, and in the few-shot kinds the training images."""
        return f"{'' if self.shots is None else 'the training images, '}the validation images and the search"

    def fitted_by(self, treatment: Treatment) -> str:
        """The optimizer and the version of the search."""
        return f"{'SGD' if treatment.sgd else 'L-BFGS'}, search {SEARCH}"

    def least_bytes(self, size: Size, treatment: Treatment) -> int:
        """With L-BFGS: the features, one fold of them, and scikit-learn's copies, logits and curvature pairs. With SGD
        much less, because batches are read from the file."""
        d, k = size.dim + 1, size.classes
        n = size.trainval if self.shots is None else min(size.trainval, self.shots * k)
        if treatment.sgd:
            return PROGRAM + 8 * k * d * FLOAT + 4 * 1024 * (d + k) * FLOAT + 4 * PIECE * FLOAT
        return PROGRAM + 3 * n * d * FLOAT + 4 * n * k * 8 + 24 * k * d * 8

    def fit(self, data: ProbeDataset, seed: int, partial: Partial) -> Fitted:
        """Search on a fifth of each class, also in the few-shot kinds; with one image per class there is no search."""
        from trex.probing import published
        from trex.probing.folds import few_shot, validation_fold
        from trex.probing.predictions import outcomes

        chosen = None if self.shots is None else few_shot(data.labels, self.shots, seed)
        labels = data.labels if chosen is None else data.labels[chosen]
        rows = data.rows if chosen is None else data.rows.subset(chosen)
        ranges = {"C": published.C_RANGE}
        fit: published.Fit = published.fit_lbfgs
        if data.treatment.sgd:
            ranges = {"lr": published.LR_RANGE, "weight_decay": published.DECAY_RANGE}
            fit = published.sgd_fit(data.classes, seed, data.stop)
        fold = validation_fold(labels, seed)
        search = published.choose(fit, ranges, rows, labels, fold, seed, data.stop, partial)
        data.stop.check()
        classifier = fit(rows, labels, search.best)
        found = outcomes(classifier.logits(data.test_rows, data.classes), data.test_labels)
        return Fitted(search, found, len(fold[0]), len(fold[1]))
