"""Probes of one data set: every kind that the config asks for, with every seed, a JSON file each."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from trex.config.schema import Config
from trex.errors import UserError
from trex.features.store import Features, open_features
from trex.files import read_json, write_json
from trex.interruption import StopRequest
from trex.probing import exact, published
from trex.probing.exact import Choice
from trex.probing.kinds import probe_kinds
from trex.probing.knn import knn_predict
from trex.probing.path import Basis
from trex.probing.split import few_shot, few_shot_folds, validation_split
from trex.rundir import RunDir

log = logging.getLogger(__name__)

FORMAT = 1


def probe(run: RunDir, config: Config, dataset: str, seeds: Sequence[int], stop: StopRequest) -> None:
    """Fit and test all probes of a data set on the run's features.

    A result that is there and was made from the same features is left; one of other features is made anew.

    Raises:
        UserError: if the features are missing, or the two parts are not of one encoder.
        Interrupted: after a signal; finished results are kept.
    """
    trainval, test = (open_features(run.features(dataset, part)) for part in ("trainval", "test"))
    if trainval.about.encoder_digest != test.about.encoder_digest or trainval.classes != test.classes:
        raise UserError(
            f"{run.features(dataset, 'test').parent}: trainval and test are not of one encoder; extract anew"
        )
    worker = _Prober(run, config, dataset, trainval, test, stop)
    for kind in probe_kinds(config.probe):
        for seed in seeds:
            path = run.probe(dataset, kind, seed)
            if path.exists() and _same_features(path, worker.made_from()):
                log.info("%s %s seed %d: result is there", dataset, kind, seed)
                continue
            stop.check()
            result = worker.result(kind, seed)
            write_json(path, result)
            top1, best = 100 * result["test"]["top1"], result["best"]
            log.info("%s %s seed %d: top-1 %.2f %%, %s, %.1f s", dataset, kind, seed, top1, best, result["seconds"])


def _same_features(path: Any, made_from: dict[str, str]) -> bool:
    try:
        return bool(read_json(path)["features"] == made_from)
    except (OSError, ValueError, KeyError, TypeError):
        return False


class _Prober:
    """Shares what the kinds and seeds of one data set have in common: the features and their basis."""

    def __init__(
        self, run: RunDir, config: Config, dataset: str, trainval: Features, test: Features, stop: StopRequest
    ) -> None:
        self.run, self.config, self.dataset, self.stop = run, config, dataset, stop
        self.trainval, self.test = trainval, test
        self.classes = len(trainval.classes)
        self._rotated: tuple[Basis, torch.Tensor, torch.Tensor] | None = None

    def made_from(self) -> dict[str, str]:
        """What identifies the features."""
        about = self.trainval.about
        return {
            "trainval_digest": self.trainval.digest,
            "test_digest": self.test.digest,
            "encoder_digest": about.encoder_digest,
            "weights": about.weights,
            "dtype": about.dtype,
        }

    def result(self, kind: str, seed: int) -> dict[str, Any]:
        """One probe's whole result, as its file holds it (docs/probes.md)."""
        began = time.monotonic()
        shots = int(kind.rsplit("-", 1)[1].removesuffix("shot")) if kind.endswith("shot") else None
        labels = self.trainval.labels
        chosen = np.arange(len(labels)) if shots is None else few_shot(labels, shots, seed)
        train, validation = validation_split(labels[chosen], seed)
        if kind.startswith("knn"):
            k = self.config.probe.neighbours
            predicted = knn_predict(self.trainval.features, labels, self.test.features, k, self.classes)
            choice = Choice({"k": float(k)}, None, None, [])
        elif self.config.probe.protocol == "exact":
            choice, predicted = self._exact(chosen, shots, seed)
        else:
            choice, predicted = self._published(chosen, seed)
        counts = {"train": len(train), "validation": len(validation), "test": len(self.test.labels)}
        return {
            "format": FORMAT,
            "run": self.run.name,
            "dataset": self.dataset,
            "probe": kind,
            "protocol": "knn" if kind.startswith("knn") else self.config.probe.protocol,
            "seed": seed,
            "shots": shots,
            "comparable": self.trainval.about.comparable and self.test.about.comparable,
            "classes": list(self.trainval.classes),
            "counts": counts,
            "best": choice.best,
            "edge": choice.edge,
            "trials": choice.trials,
            "validation": {"top1": choice.validation_top1},
            "test": scores(self.test.labels, predicted, self.classes),
            "seconds": round(time.monotonic() - began, 3),
            "features": self.made_from(),
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
        }

    def _exact(self, chosen: np.ndarray, shots: int | None, seed: int) -> tuple[Choice, np.ndarray]:
        basis, rotated, rotated_test = self._basis()
        labels = exact.as_tensor(self.trainval.labels[chosen])
        rows = rotated if shots is None else rotated[chosen]
        one_fold = [validation_split(self.trainval.labels[chosen], seed)]
        folds = one_fold if shots is None else few_shot_folds(self.trainval.labels[chosen], seed)
        choice = exact.choose_c(rows, labels, self.classes, basis, folds, self.stop)
        self.stop.check()
        weights = exact.fit(rows, labels, self.classes, basis, choice.best["C"])
        return choice, exact.predict(rotated_test, weights).numpy()

    def _published(self, chosen: np.ndarray, seed: int) -> tuple[Choice, np.ndarray]:
        features = np.asarray(self.trainval.features[chosen], dtype=np.float32)
        labels = self.trainval.labels[chosen]
        ranges = {"C": published.C_RANGE}
        fit: published.Fit = published.fit_lbfgs
        if published.uses_sgd(self.dataset):
            ranges = {"lr": published.LR_RANGE, "weight_decay": published.DECAY_RANGE}
            fit = published.sgd_fit(self.classes, seed, self.stop)
        choice = published.choose(fit, ranges, features, labels, validation_split(labels, seed), seed, self.stop)
        self.stop.check()
        return choice, fit(features, labels, choice.best)(np.asarray(self.test.features, dtype=np.float32))

    def _basis(self) -> tuple[Basis, torch.Tensor, torch.Tensor]:
        if self._rotated is None:
            trainval, test = (self._floats(part.features) for part in (self.trainval, self.test))
            basis = Basis.of(trainval)
            self._rotated = basis, basis.rotate(trainval), basis.rotate(test)
        return self._rotated

    def _floats(self, features: np.ndarray) -> torch.Tensor:
        """Features as float32; of ImageNet-1K, CoG and iNaturalist L2-normalised, as the protocol has it."""
        floats = torch.from_numpy(np.array(features, dtype=np.float32))
        return F.normalize(floats, dim=1) if published.uses_sgd(self.dataset) else floats


def scores(labels: np.ndarray, predicted: np.ndarray, classes: int) -> dict[str, Any]:
    """Top-1, mean per-class accuracy over the classes that the test set has, accuracy a class (None where it has no
    image), and the confusion matrix as [true, predicted, count] triples; fractions 0 … 1."""
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    totals = confusion.sum(1)
    per_class = [float(confusion[i, i] / totals[i]) if totals[i] else None for i in range(classes)]
    present = [value for value in per_class if value is not None]
    rows, columns = np.nonzero(confusion)
    return {
        "top1": float(np.trace(confusion) / len(labels)),
        "mean_per_class": float(np.mean(present)),
        "classes_without_test_images": int((totals == 0).sum()),
        "per_class": per_class,
        "confusion": [[int(i), int(j), int(confusion[i, j])] for i, j in zip(rows, columns, strict=True)],
    }
