"""Probes of one dataset: every kind that the config asks for, with every seed, a JSON file each."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trex.config.schema import Config
from trex.errors import Interrupted, UserError
from trex.features.store import Features, open_features
from trex.files import write_json
from trex.interruption import StopRequest
from trex.probing import exact, published
from trex.probing.design import Basis, Design
from trex.probing.exact import Choice, Problem
from trex.probing.folds import few_shot, few_shot_folds, validation_split
from trex.probing.kinds import fitted_by, is_normalized, is_result_of, made_from, probe_kinds
from trex.probing.knn import knn_predict
from trex.probing.memory import Size, SolverMemory, needs_of, plan_exact, used_bytes
from trex.probing.partial import Partial
from trex.probing.rows import Rows
from trex.records.run_dir import RunDir

log = logging.getLogger(__name__)

FORMAT = 1


def probe(run: RunDir, config: Config, dataset: str, seeds: Sequence[int], stop: StopRequest) -> None:
    """Fit and test all probes of a dataset on the run's features.

    A result that is there and was made from the same features in the same way is left; any other is made anew.

    Raises:
        UserError: if the features are missing, the two parts are not of one encoder, or the memory does not suffice.
        Interrupted: after a signal; finished results are kept, and a search that was under way goes on where it was.
    """
    trainval, test = (open_features(run.features(dataset, part)) for part in ("trainval", "test"))
    if trainval.about.encoder_digest != test.about.encoder_digest or trainval.classes != test.classes:
        raise UserError(
            f"{run.features(dataset, 'test').parent}: trainval and test are not of one encoder; extract anew"
        )
    prober = _Prober(run, config, dataset, trainval, test, stop)
    prober.check_memory()
    for kind in probe_kinds(config.probe):
        for seed in seeds:
            path = run.probe(dataset, kind, seed)
            if is_result_of(path, prober.made_from(kind)):
                log.info("%s %s seed %d: result is there", dataset, kind, seed)
                continue
            stop.check()
            result = _finished(prober, kind, seed, path)
            top1, best = 100 * result["test"]["top1"], result["best"]
            log.info("%s %s seed %d: top-1 %.2f %%, %s, %.1f s", dataset, kind, seed, top1, best, result["seconds"])


def _finished(prober: _Prober, kind: str, seed: int, path: Path) -> dict[str, Any]:
    """The result of one probe, written to `path`."""
    partial = Partial(path, prober.made_from(kind))
    try:
        result = prober.result(kind, seed, partial)
    except Interrupted:
        partial.write()
        raise
    write_json(path, result)
    partial.remove()
    return result


class _Prober:
    """Shares what the kinds and seeds of one dataset have in common: the features and their basis."""

    def __init__(
        self, run: RunDir, config: Config, dataset: str, trainval: Features, test: Features, stop: StopRequest
    ) -> None:
        self.run, self.settings, self.dataset, self.stop = run, config.probe, dataset, stop
        self.trainval, self.test = trainval, test
        self.classes = len(trainval.classes)
        self.normalized = is_normalized(config.probe, dataset)
        self.rows, self.test_rows = (Rows(part.features, self.normalized) for part in (trainval, test))
        self.size = Size(len(trainval.labels), len(test.labels), self.rows.dim, self.classes)
        self.limit = config.probe.memory_gb * 1e9

    def made_from(self, kind: str) -> dict[str, Any]:
        """What identifies the features, and the way in which a kind of probe treats them."""
        return made_from(self.settings, kind, self.trainval.about, (self.trainval.digest, self.test.digest))

    def check_memory(self) -> None:
        """Raise UserError if a probe takes more memory than it may."""
        for need in needs_of(self.dataset, self.settings):
            used_bytes(self.size, need, self.limit)

    def result(self, kind: str, seed: int, partial: Partial) -> dict[str, Any]:
        """One probe's whole result, as its file holds it (docs/probes.md)."""
        began, before = time.monotonic(), float(partial.state.get("seconds", 0.0))
        shots = int(kind.rsplit("-", 1)[1].removesuffix("shot")) if kind.endswith("shot") else None
        labels = self.trainval.labels
        chosen = None if shots is None else few_shot(labels, shots, seed)
        train, validation = validation_split(labels if chosen is None else labels[chosen], seed)
        if kind.startswith("knn") or (chosen is not None and self.settings.protocol == "exact"):
            # No part is set apart: k-NN chooses nothing, few-shot by cross-validation.
            train, validation = np.sort(np.concatenate([train, validation])), validation[:0]
        try:
            if kind.startswith("knn"):
                choice, predicted = self._knn()
            elif self.settings.protocol == "exact":
                choice, predicted = self._exact(chosen, seed, partial)
            else:
                choice, predicted = self._published(chosen, seed, partial)
        finally:
            seconds = round(before + time.monotonic() - began, 3)
            partial.state["seconds"] = seconds
        counts = {"train": len(train), "validation": len(validation), "test": len(self.test.labels)}
        return {
            "format": FORMAT,
            "run": self.run.name,
            "dataset": self.dataset,
            "probe": kind,
            "protocol": "knn" if kind.startswith("knn") else self.settings.protocol,
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
            "seconds": seconds,
            "features": self.made_from(kind),
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
        }

    def _knn(self) -> tuple[Choice, np.ndarray]:
        k = self.settings.neighbors
        predicted = knn_predict(self.rows, self.trainval.labels, self.test_rows, k, self.classes, self.stop)
        return Choice({"k": float(k)}, None, None, []), predicted

    def _exact(self, chosen: np.ndarray | None, seed: int, partial: Partial) -> tuple[Choice, np.ndarray]:
        labels = self.trainval.labels if chosen is None else self.trainval.labels[chosen]
        design = self._designs[0] if chosen is None else self._designs[0].subset(chosen)
        problem = Problem(design, labels, self.classes, self._plan.logits, self.stop)
        folds = [validation_split(labels, seed)] if chosen is None else few_shot_folds(labels, seed)
        choice = exact.choose_c(problem, folds, partial)
        weights = exact.fit(problem, choice.best["C"], partial)
        return choice, self._designs[1].predict(weights)

    def _published(self, chosen: np.ndarray | None, seed: int, partial: Partial) -> tuple[Choice, np.ndarray]:
        labels = self.trainval.labels if chosen is None else self.trainval.labels[chosen]
        rows = self.rows if chosen is None else self.rows.subset(chosen)
        ranges = {"C": published.C_RANGE}
        fit: published.Fit = published.fit_lbfgs
        if fitted_by(self.settings, self.dataset) == "SGD":
            ranges = {"lr": published.LR_RANGE, "weight_decay": published.DECAY_RANGE}
            fit = published.sgd_fit(self.classes, seed, self.stop)
        choice = published.choose(fit, ranges, rows, labels, validation_split(labels, seed), seed, self.stop, partial)
        self.stop.check()
        return choice, fit(rows, labels, choice.best)(self.test_rows)

    @cached_property
    def _plan(self) -> SolverMemory:
        return plan_exact(self.size, self.limit)

    @cached_property
    def _designs(self) -> tuple[Design, Design]:
        """Trainval and test in the basis of trainval."""
        if not self._plan.rows:
            gigabytes = self.limit / 1e9
            log.info("%s: %g GB of memory do not hold the features: they are read in pieces", self.dataset, gigabytes)
        basis = Basis.of(self.rows)
        trainval, test = (Design.of(rows, basis, self.classes, self._plan.rows) for rows in (self.rows, self.test_rows))
        return trainval, test


def scores(labels: np.ndarray, predicted: np.ndarray, classes: int) -> dict[str, Any]:
    """Top-1, mean per-class accuracy over the classes that the test set has, accuracy a class (None where it has no
    image), and the confusion matrix as [true, predicted, count] triples; fractions 0 … 1."""
    totals = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels[labels == predicted], minlength=classes)
    per_class = [float(hits[i] / totals[i]) if totals[i] else None for i in range(classes)]
    present = [value for value in per_class if value is not None]
    pairs, counts = np.unique(labels * classes + predicted, return_counts=True)
    return {
        "top1": float(hits.sum() / len(labels)),
        "mean_per_class": float(np.mean(present)),
        "classes_without_test_images": int((totals == 0).sum()),
        "per_class": per_class,
        "confusion": [
            [int(pair // classes), int(pair % classes), int(count)] for pair, count in zip(pairs, counts, strict=True)
        ],
    }
