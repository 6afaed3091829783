"""The features of one dataset, opened once for all kinds and seeds, and the work that several of them share."""

from __future__ import annotations

import logging
from functools import cached_property

import numpy as np
import torch

from trex.errors import UserError
from trex.features.store import open_features
from trex.interruption import StopRequest
from trex.probing.approach import Approaches
from trex.probing.design import CPU, Basis, Design
from trex.probing.hardware import memory_of, multiplies_bfloat16
from trex.probing.knn import Neighbors, nearest
from trex.probing.memory import Size, SolverMemory, is_small, solver_memory
from trex.probing.predictions import Outcomes
from trex.probing.rankings import Rankings
from trex.probing.rows import Rows
from trex.probing.treatment import Treatment
from trex.records.feature_provenance import FeatureProvenance
from trex.records.probe_result import SkippedImages
from trex.records.run_dir import RunDir

log = logging.getLogger(__name__)


class ProbeDataset:
    """The data that a kind of probe fits."""

    def __init__(
        self, run: RunDir, name: str, treatment: Treatment, limit: float, stop: StopRequest, neighbors: int = 0,
        device: torch.device = CPU,
    ) -> None:  # fmt: skip
        """Open the features of both splits.

        Args:
            run: the run that the features belong to.
            name: name of the dataset.
            treatment: how its features are treated.
            limit: RAM that a probe may use, bytes.
            stop: checked in every long loop.
            neighbors: the most neighbors that a kind needs; one search finds them for all kinds.
            device: where the exact solver computes.

        Raises:
            UserError: if the features are missing or damaged, or the two splits have different encoders or classes.
        """
        trainval, test = (open_features(run.features(name, split)) for split in ("trainval", "test"))
        if trainval.provenance.encoder_digest != test.provenance.encoder_digest or trainval.classes != test.classes:
            folder = run.features(name, "test").parent
            raise UserError(
                f"{folder}: trainval.h5 and test.h5 have different encoders or classes; delete both and extract again"
            )
        self._neighbors = neighbors
        if any((split.labels.ndim == 2) != treatment.multi_label for split in (trainval, test)):
            raise UserError(
                f"{run.features(name, 'test').parent}: its labels do not fit to the record of {name}, which says that "
                f"an image has {'any number of classes' if treatment.multi_label else 'one class'}; delete the folder "
                f"and extract again"
            )
        self.name, self.treatment, self.limit, self.stop, self.device = name, treatment, limit, stop, device
        self.fast = multiplies_bfloat16(device)
        self.indices = (trainval.index, test.index)
        self.comparable = trainval.provenance.comparable and test.provenance.comparable
        self.skipped = _skipped(trainval.provenance, test.provenance)
        self.class_names = trainval.classes
        self.rows, self.test_rows = (Rows(split.features, treatment.normalize) for split in (trainval, test))
        self.labels: np.ndarray = trainval.labels  #: (n,) int64; (n, K) int8 in a multi-label dataset
        self.test_labels: np.ndarray = test.labels
        self.approaches = Approaches()  #: of the exact solver's fits of all of trainval
        self.refits: dict[float, Outcomes] = {}  #: of the exact solver's fits of all of trainval, by C
        self.rankings: dict[float, Rankings] = {}  #: the same in a multi-label dataset

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def classes_without_training_images(self) -> int:
        """The number of classes that no image of trainval shows. No probe ever predicts them."""
        if self.treatment.multi_label:
            return int((~(self.labels > 0).any(0)).sum())
        return self.classes - len(np.unique(self.labels))

    @property
    def size(self) -> Size:
        """The sizes that the memory of a probe depends on."""
        return Size(len(self.labels), len(self.test_labels), self.rows.dim, self.classes)

    @cached_property
    def solver_memory(self) -> SolverMemory:
        """What the exact solver keeps in memory, that of the GPU if it computes there."""
        return solver_memory(self.size, memory_of(self.device, self.limit))

    @cached_property
    def neighbors(self) -> Neighbors:
        """The nearest training images of each test image, for the k-NN kinds."""
        return nearest(self.rows, self.labels, self.test_rows, self._neighbors, self.stop)

    @cached_property
    def designs(self) -> tuple[Design, Design]:
        """The features of trainval and test in the basis of trainval, for the exact solver."""
        place = self.solver_memory.rows
        if place == "file":
            log.info("%s: the features do not fit into memory and are read in pieces, which is slower", self.name)
        small = is_small(len(self.labels), self.rows.dim, self.classes)
        basis = Basis.of(self.rows, self.device, torch.float64 if small else torch.float32)
        # rotating the weights of each final fit takes less time than rotating the images of test once
        test = Design.of(self.test_rows, basis, self.classes, in_memory=False)
        return Design.at(self.rows, basis, self.classes, place), test

    def designs_of(self, places: np.ndarray) -> tuple[Design, Design]:
        """The features of some images of trainval, int64 indices, in a basis of their own, and those of test.

        With fewer images than dimensions, the basis has one vector per image, so that the problem is much smaller. The
        features of test stay in the file, because they are needed only once.
        """
        rows = self.rows.subset(places)
        basis = Basis.of(rows, self.device)
        few = Design.of(rows, basis, self.classes, self.solver_memory.rows != "file")
        return few, Design.of(self.test_rows, basis, self.classes, in_memory=False)


def _skipped(trainval: FeatureProvenance, test: FeatureProvenance) -> SkippedImages:
    digests = (trainval.skipped_digest, test.skipped_digest)
    return SkippedImages(trainval.skipped, test.skipped, "-".join(digests) if any(digests) else "")
