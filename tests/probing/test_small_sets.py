"""Datasets with few images or classes: no traceback, and a result that states what was done."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trex.config import Config, load
from trex.features.store import Contents, write_features
from trex.interruption import StopRequest
from trex.probing.probe import probe
from trex.records.feature_provenance import FeatureProvenance
from trex.records.probe_result import ProbeResult
from trex.records.run_dir import RunDir

KINDS = ("exact", "exact-5shot", "published", "published-5shot", "knn20")
MADE_BY = FeatureProvenance("run", "mine", "trainval", "s", "encoder", "weights", "resize 8", "float32", False, {})


def make(tmp_path: Path, train: list[int], test: list[int], classes: int, dim: int = 8) -> tuple[RunDir, Config]:
    """A run with features of a dataset `digits_unseen`: each class has another mean."""
    path = tmp_path / "c.yaml"
    path.write_text("extract: {datasets: [digits_unseen], weights: pixels}\nprobe: {seeds: 1}\n")
    config = load(path, Config, [f"runs={tmp_path}/runs", f"probe.kinds=[{','.join(KINDS)}]"])
    run = RunDir.of(config)
    chance = np.random.default_rng(0)
    means = chance.normal(size=(classes, dim)) * 3
    for split, labels in (("trainval", train), ("test", test)):
        rows = (means[labels] + chance.normal(size=(len(labels), dim))).astype(np.float32)
        file = run.features("digits_unseen", split)
        file.parent.mkdir(parents=True, exist_ok=True)
        names = [f"{i}.png" for i in range(len(labels))]
        classes_names = tuple(f"class {i}" for i in range(classes))
        made_by = replace(MADE_BY, split=split, dataset="digits_unseen")
        write_features(file, [rows], Contents(rows.shape, np.array(labels), names, classes_names, made_by))
    return run, config


def results(run: RunDir) -> dict[str, ProbeResult]:
    return {kind: ProbeResult.read(run.probe("digits_unseen", kind, 0)) for kind in KINDS}


def test_one_image_per_class_is_fitted_with_a_fixed_c(tmp_path: Path) -> None:
    run, config = make(tmp_path, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4] * 4, 5)
    probe(run, config, "digits_unseen", [0], StopRequest())
    found = results(run)
    assert found["exact"].search.validation_score is None, "C is fixed"
    assert found["exact"].search.trials == ()
    assert all(one.test.top1 > 0.7 for kind, one in found.items() if kind != "knn20")


@pytest.mark.parametrize(("train", "test"), [([0] * 12, [0] * 5), ([0], [0]), ([0], [0, 0, 0])])
def test_a_single_class_or_image_gives_that_class(tmp_path: Path, train: list[int], test: list[int]) -> None:
    run, config = make(tmp_path, train, test, 1)
    probe(run, config, "digits_unseen", [0], StopRequest())
    assert {one.test.top1 for one in results(run).values()} == {1.0}


def test_one_test_image(tmp_path: Path) -> None:
    run, config = make(tmp_path, [0, 1] * 20, [1], 2)
    probe(run, config, "digits_unseen", [0], StopRequest())
    assert {one.counts.test for one in results(run).values()} == {1}


def test_class_without_training_images_is_never_predicted_and_stated(tmp_path: Path, caplog) -> None:
    run, config = make(tmp_path, [0, 1, 2] * 30, [0, 1, 2, 3] * 20, 4)
    with caplog.at_level(logging.WARNING):
        probe(run, config, "digits_unseen", [0], StopRequest())
    assert "digits_unseen: no training images of 1 class: never predicted" in caplog.text
    for one in results(run).values():
        assert one.counts.classes_without_training_images == 1
        assert one.test.per_class[3] == 0
        assert not any(predicted == 3 for _, predicted, _ in one.test.confusion)
    exact = results(run)["exact"]
    assert exact.test.top1 > 0.7
    assert exact.test.nll is None, "the probability of the class is 0"
