"""Probes of one dataset: every kind that the config asks for, with every seed, one result file each."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from trex.config.schema import Config
from trex.errors import Interrupted
from trex.interruption import StopRequest
from trex.probing.dataset import ProbeDataset
from trex.probing.kind import Fitted, Kind, kinds_of
from trex.probing.partial import Partial
from trex.probing.treatment import Treatment
from trex.records.base import RecordError
from trex.records.probe_result import ImageCounts, ProbeProvenance, ProbeResult, Scores
from trex.records.run_dir import RunDir

log = logging.getLogger(__name__)


def probe(run: RunDir, config: Config, dataset: str, seeds: Sequence[int], stop: StopRequest) -> None:
    """Fit and test all probes of a dataset on the run's features.

    A result that is there and was made from the same features in the same way is left; any other is computed again.

    Raises:
        UserError: if the features are missing, the two splits are not of one encoder, or the memory does not suffice.
        Interrupted: after a signal; finished results are kept, and an unfinished search continues where it was.
    """
    kinds, treatment = kinds_of(config.probe), Treatment.of(dataset, config.probe)
    data = ProbeDataset(run, dataset, treatment, config.probe.memory_gb * 1e9, stop)
    for kind in kinds:
        kind.used_bytes(data.size, treatment, data.limit)
    for kind in kinds:
        provenance = kind.provenance(treatment, *data.attributes)
        for seed in seeds:
            path = run.probe(dataset, kind.name, seed)
            if _is_there(path, provenance):
                log.info("%s %s seed %d: result is there", dataset, kind.name, seed)
                continue
            stop.check()
            result = _result(run, data, kind, seed, provenance)
            top1, best = 100 * result.test.top1, result.search.best
            log.info("%s %s seed %d: top-1 %.2f %%, %s, %.1f s", dataset, kind.name, seed, top1, best, result.seconds)


def _is_there(path: Path, provenance: ProbeProvenance) -> bool:
    try:
        return ProbeResult.read(path).provenance == provenance
    except FileNotFoundError:
        return False
    except RecordError as error:
        log.warning("%s: not a readable result, computed again", error)
        return False


def _result(run: RunDir, data: ProbeDataset, kind: Kind, seed: int, provenance: ProbeProvenance) -> ProbeResult:
    """The result of one probe, also written to its file."""
    path = run.probe(data.name, kind.name, seed)
    partial = Partial(path, provenance.key)
    try:
        fitted = _timed_fit(data, kind, seed, partial)
    except Interrupted:
        partial.write()
        raise
    result = ProbeResult(
        run=run.name,
        dataset=data.name,
        probe=kind.name,
        seed=seed,
        comparable=data.comparable,
        classes=data.class_names,
        counts=ImageCounts(fitted.train, fitted.validation, len(data.test_labels)),
        search=fitted.search,
        test=scores(data.test_labels, fitted.predicted, data.classes),
        seconds=partial.seconds,
        provenance=provenance,
        versions={"torch": torch.__version__, "numpy": np.__version__},
    )
    result.write(path)
    partial.remove()
    return result


def _timed_fit(data: ProbeDataset, kind: Kind, seed: int, partial: Partial) -> Fitted:
    """Fit, and add the time to that of earlier attempts."""
    began, before = time.monotonic(), partial.seconds
    try:
        return kind.fit(data, seed, partial)
    finally:
        partial.seconds = round(before + time.monotonic() - began, 3)


def scores(labels: np.ndarray, predicted: np.ndarray, classes: int) -> Scores:
    """How (n,) int64 predicted classes agree with (n,) int64 labels of so many classes."""
    totals = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels[labels == predicted], minlength=classes)
    per_class = tuple(float(hits[i] / totals[i]) if totals[i] else None for i in range(classes))
    present = [value for value in per_class if value is not None]
    pairs, counts = np.unique(labels * classes + predicted, return_counts=True)
    return Scores(
        top1=float(hits.sum() / len(labels)),
        mean_per_class=float(np.mean(present)),
        classes_without_test_images=int((totals == 0).sum()),
        per_class=per_class,
        confusion=tuple(
            (int(pair // classes), int(pair % classes), int(count)) for pair, count in zip(pairs, counts, strict=True)
        ),
    )
