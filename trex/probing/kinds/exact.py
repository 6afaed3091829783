"""`exact`, `exact-5shot`: logistic regression, C chosen along a path of certified optima (trex/probing/exact.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trex.probing.kind import Fitted, Kind
from trex.probing.memory import Size, least_solver_memory, solver_memory
from trex.probing.treatment import Treatment

if TYPE_CHECKING:
    from trex.probing.dataset import ProbeDataset
    from trex.probing.partial import Partial

#: Version of the solver and of the search: results of another version are computed again.
SOLVER = 6
#: The same for what is special to multi-label datasets.
MULTI_LABEL = 1


@dataclass(frozen=True)
class Exact(Kind):
    """All seeds share the basis and the rotated features; few images have a small basis of their own."""

    shots: int | None = None  #: training images per class; None: all

    @property
    def seeds_change(self) -> str:
        """The folds, and in the few-shot kinds the training images."""
        if self.shots is None:
            return "the validation images that choose C; the final fits use all of trainval"
        return "the training images and the folds"

    @property
    def fits_multi_label(self) -> bool:
        """With all images only: one logistic regression per class (trex/probing/multilabel.py)."""
        return self.shots is None

    def fitted_by(self, treatment: Treatment) -> str:
        """The version of the solver, the choice of C of the few-shot kinds, and that of multi-label datasets."""
        version = f", C by mean average precision, version {MULTI_LABEL}" if treatment.multi_label else ""
        return f"exact solver {SOLVER}" + ("" if self.shots is None else ", C by likelihood") + version

    def least_bytes(self, size: Size, treatment: Treatment) -> int:  # noqa: ARG002
        """When everything is computed in pieces. Few-shot probes need less, except with many images."""
        return least_solver_memory(size).bytes

    def used_bytes(self, size: Size, treatment: Treatment, limit: float) -> int:  # noqa: ARG002
        """The RAM of what the solver keeps in memory within the limit."""
        return solver_memory(size, limit).bytes

    def fit(self, data: ProbeDataset, seed: int, partial: Partial) -> Fitted:
        """Choose C on a fifth of each class, or by cross-validation in the few-shot kinds, then fit all images.

        The final fit of all of trainval depends on C alone, so seeds that choose the same C share it.
        """
        if data.treatment.multi_label:
            from trex.probing.multilabel import fit_multi_label

            return fit_multi_label(data, seed, partial)
        from trex.probing import exact
        from trex.probing.approach import Approaches
        from trex.probing.folds import few_shot, few_shot_folds, validation_fold
        from trex.probing.predictions import outcomes

        chosen = None if self.shots is None else few_shot(data.labels, self.shots, seed)
        labels = data.labels if chosen is None else data.labels[chosen]
        design, test = data.designs if chosen is None else data.designs_of(chosen)
        shared = data.approaches if chosen is None else Approaches()
        problem = exact.Problem(design, labels, data.classes, data.solver_memory.logits, data.stop, data.fast, shared)
        folds = [validation_fold(labels, seed)] if chosen is None else few_shot_folds(labels, seed)
        search = exact.choose_c(problem, folds, partial, few=chosen is not None)
        validation = len(folds[0][1]) if chosen is None else 0
        c = search.best["C"]
        found = data.refits.get(c) if chosen is None else None
        if found is None:
            found = outcomes((part.cpu() for part in test.logits(exact.fit(problem, c, partial))), data.test_labels)
        if chosen is None:
            data.refits[c] = found
        return Fitted(search, found, len(labels) - validation, validation)
