"""Fits of all of trainval that seeds share, and results whose predictions are gone: computed once, with equal bits."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from jobs.plan.runs import save_config
from tests.stopping import StopAfter
from trex.config import Config, load
from trex.distributed import Ranks
from trex.errors import Interrupted
from trex.features.extract import extract
from trex.interruption import StopRequest
from trex.probing import exact
from trex.probing.probe import probe
from trex.records.probe_result import ProbeResult, Scores
from trex.records.run_dir import RunDir

DATASET = "digits_unseen"
SEEDS = range(4)


@pytest.fixture
def pixels(tmp_path: Path) -> tuple[RunDir, Config]:
    path = tmp_path / "c.yaml"
    path.write_text(
        f"extract: {{datasets: [{DATASET}], weights: pixels, resize: 8, crop: 8}}\n"
        "probe: {seeds: 4, kinds: [exact, exact-5shot]}\ndata: {workers: 0}\n"
    )
    config = load(path, Config, [f"runs={tmp_path}/runs"])
    run = RunDir.of(config)
    save_config(run, config)
    extract(run, config, DATASET, Ranks(), StopRequest())
    return run, config


def results(run: RunDir, kind: str) -> dict[int, ProbeResult]:
    return {seed: ProbeResult.read(run.probe(DATASET, kind, seed)) for seed in SEEDS}


def outcome(run: RunDir, kind: str) -> dict[int, tuple[Scores, str, float]]:
    return {seed: (one.test, one.predictions, one.search.best["C"]) for seed, one in results(run, kind).items()}


def delete(run: RunDir) -> None:
    for path in run.root.glob("probes/*/*/seed_*"):
        path.unlink()


def test_seeds_that_choose_the_same_c_share_one_fit_and_any_order_or_stop_gives_the_same_bits(
    pixels: tuple[RunDir, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, config = pixels
    fits: list[tuple[float, int]] = []
    fit = exact.fit

    def counted(problem: exact.Problem, c: float, partial: object) -> object:
        fits.append((c, len(problem.labels)))
        return fit(problem, c, partial)

    monkeypatch.setattr(exact, "fit", counted)
    probe(run, config, DATASET, SEEDS, StopRequest())
    together = {kind: outcome(run, kind) for kind in config.probe.kinds}
    chosen = [c for _, _, c in together["exact"].values()]
    assert len(set(chosen)) < len(SEEDS), "two seeds choose the same C"
    images = max(count for _, count in fits)
    assert sorted(c for c, count in fits if count == images) == sorted(set(chosen))
    assert sum(count < images for _, count in fits) == len(SEEDS), "few-shot seeds have other images"
    delete(run)
    for seed in reversed(SEEDS):  # nothing is shared between calls
        probe(run, config, DATASET, [seed], StopRequest())
    assert {kind: outcome(run, kind) for kind in config.probe.kinds} == together
    delete(run)
    stops, checks = 0, 300
    while True:
        try:
            probe(run, config, DATASET, SEEDS, StopAfter(checks))
            break
        except Interrupted:
            stops += 1
    assert stops >= 3
    assert {kind: outcome(run, kind) for kind in config.probe.kinds} == together


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_result_without_its_predictions_is_computed_again_with_a_warning_that_names_them(
    pixels: tuple[RunDir, Config], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    run, config = pixels
    probe(run, config, DATASET, SEEDS, StopRequest())
    before = outcome(run, "exact")
    path = run.probe(DATASET, "exact", 1).with_suffix(".npz")
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-1])
    times = {seed: run.probe(DATASET, "exact", seed).stat().st_mtime_ns for seed in SEEDS}
    with caplog.at_level(logging.WARNING):
        probe(run, config, DATASET, SEEDS, StopRequest())
    assert [str(path) in record.getMessage() for record in caplog.records] == [True]
    assert path.read_bytes() == content
    assert outcome(run, "exact") == before
    after = {seed: run.probe(DATASET, "exact", seed).stat().st_mtime_ns for seed in SEEDS}
    assert [seed for seed in SEEDS if times[seed] != after[seed]] == [1]


def test_predictions_of_a_result_are_those_that_its_confusion_matrix_counts(pixels: tuple[RunDir, Config]) -> None:
    run, config = pixels
    probe(run, config, DATASET, [0], StopRequest())
    result = ProbeResult.read(run.probe(DATASET, "exact", 0))
    with np.load(run.probe(DATASET, "exact", 0).with_suffix(".npz"), allow_pickle=False) as file:
        pairs, counts = np.unique(np.stack([file["label"], file["predicted"]]), axis=1, return_counts=True)
        assert (file["rank"] == 0).mean() == result.test.top1
    assert tuple((int(a), int(b), int(n)) for (a, b), n in zip(pairs.T, counts, strict=True)) == result.test.confusion
