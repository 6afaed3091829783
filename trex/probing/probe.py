"""Runs the probes of one dataset: every kind in the config, every seed. Each writes a result and its predictions."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from trex.config.schema import Config
from trex.errors import Interrupted, UserError
from trex.interruption import StopRequest
from trex.probing.dataset import ProbeDataset
from trex.probing.design import CPU
from trex.probing.hardware import device_of
from trex.probing.kind import Fitted, Kind, kinds_of, left_out
from trex.probing.partial import Partial
from trex.probing.predictions import write_predictions
from trex.probing.rankings import Rankings, ranking_scores, read_predictions_of, write_rankings
from trex.probing.scores import scores
from trex.probing.treatment import Treatment
from trex.records.base import RecordError
from trex.records.probe_result import ImageCounts, ProbeProvenance, ProbeResult, Scores, predictions_file
from trex.records.run_dir import RunDir
from trex.wording import counted

log = logging.getLogger(__name__)


def probe(
    run: RunDir, config: Config, dataset: str, seeds: Sequence[int], stop: StopRequest, device: torch.device = CPU
) -> None:
    """Fit and test all probes of a dataset on the run's features.

    An existing result is kept if it was made from the same features in the same way; otherwise it is computed again.

    Raises:
        UserError: if the features are missing, the two splits have different encoders or classes,
            `probe.memory_gb` is too small, or `probe.device` is cuda and `device`, that of this process, is not.
        Interrupted: after a signal; finished results are kept, and the next call continues an unfinished search.
    """
    kinds, treatment = kinds_of(config.probe, dataset), Treatment.of(dataset, config.probe)
    sentence = left_out(config.probe, dataset)
    if not kinds:
        raise UserError(sentence)
    if sentence:
        log.warning("%s", sentence)
    neighbors = max(kind.neighbors for kind in kinds)
    device = device_of(config.probe.device, device)
    data = ProbeDataset(run, dataset, treatment, config.probe.memory_gb * 1e9, stop, neighbors, device)
    for kind in kinds:
        kind.used_bytes(data.size, treatment, data.limit)
    if absent := data.classes_without_training_images:
        log.warning("%s: no training images of %s: never predicted", dataset, counted(absent, "class"))
    for kind in kinds:
        provenance = kind.provenance(treatment, *data.indices)
        for seed in filter(kind.runs, seeds):
            path = run.probe(dataset, kind.name, seed)
            if _is_current(path, provenance):
                log.info("%s %s seed %d: the result exists already", dataset, kind.name, seed)
                continue
            stop.check()
            result = _result(run, data, kind, seed, provenance)
            score = f"{'mAP' if treatment.multi_label else 'top-1'} {100 * result.test.main:.2f} %"
            best = result.search.best
            log.info("%s %s seed %d: %s, %s, %.1f s", dataset, kind.name, seed, score, best, result.seconds)


def _is_current(path: Path, provenance: ProbeProvenance) -> bool:
    """Whether the file holds a result with this provenance, and its file of predictions is intact."""
    try:
        result = ProbeResult.read(path)
        if result.provenance != provenance:
            return False
        read_predictions_of(result, path)
    except FileNotFoundError:
        return False
    except (RecordError, UserError) as error:
        log.warning("%s; the result is computed again", error)
        return False
    return True


def _result(run: RunDir, data: ProbeDataset, kind: Kind, seed: int, provenance: ProbeProvenance) -> ProbeResult:
    """Run one probe and write its result to its file."""
    path = run.probe(data.name, kind.name, seed)
    partial = Partial(path, provenance.key)
    try:
        fitted = _timed_fit(data, kind, seed, partial)
    except Interrupted:
        partial.write()
        raise
    test, digest = _tested(predictions_file(path), data, fitted)
    result = ProbeResult(
        run=run.name,
        dataset=data.name,
        probe=kind.name,
        seed=seed,
        comparable=data.comparable,
        skipped=data.skipped,
        classes=data.class_names,
        counts=ImageCounts(
            fitted.train, fitted.validation, len(data.test_labels), data.classes_without_training_images
        ),
        search=fitted.search,
        test=test,
        predictions=digest,
        seconds=partial.seconds,
        provenance=provenance,
        versions={"torch": torch.__version__, "numpy": np.__version__},
    )
    result.write(path)
    partial.remove()
    return result


def _tested(path: Path, data: ProbeDataset, fitted: Fitted) -> tuple[Scores, str]:
    """Write the predictions for the test images to `path`. Returns their scores, and the SHA-256 of the file."""
    found, labels, classes = fitted.outcomes, data.test_labels, data.classes
    if isinstance(found, Rankings):
        return ranking_scores(found), write_rankings(path, found)
    return scores(labels, found, classes), write_predictions(path, labels, found, classes)


def _timed_fit(data: ProbeDataset, kind: Kind, seed: int, partial: Partial) -> Fitted:
    """Fit; the time is added to that of earlier attempts."""
    start, earlier = time.monotonic(), partial.seconds
    try:
        return kind.fit(data, seed, partial)
    finally:
        partial.seconds = round(earlier + time.monotonic() - start, 3)
