"""Probes of multi-label datasets: one logistic regression per class, on pictures in the layout of VOC 2007."""

from __future__ import annotations

import io
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from jobs.plan.runs import save_config
from tests.datasets.trees import make, voc_lists
from tests.stopping import StopAfter
from trex.config import Config, load
from trex.datasets.sets.voc2007 import DATASETS
from trex.distributed import Ranks
from trex.errors import Interrupted, UserError
from trex.features.extract import extract
from trex.features.store import Features, open_features
from trex.interruption import StopRequest
from trex.probing import multilabel
from trex.probing.average_precision import mean_average_precision, ranks, replicates
from trex.probing.folds import multi_label_fold
from trex.probing.memory import SolverMemory
from trex.probing.probe import probe
from trex.probing.rankings import Rankings, read_predictions_of, read_rankings, write_rankings
from trex.records.probe_result import ProbeResult, predictions_file
from trex.records.run_dir import RunDir

VOC = DATASETS[0]
RARE = 7  #: a class that one training image shows


def labels_of(images: int, chance: np.random.Generator) -> np.ndarray:
    """(n, 20) labels: some images show no class, some several; a few are 0."""
    labels = np.where(chance.random((images, 20)) < np.linspace(0.05, 0.3, 20), 1, -1)
    labels[:6] = -1
    labels[chance.random(labels.shape) < 0.02] = 0
    labels[:, RARE] = np.where(np.arange(images) == 30, 1, -1)
    return labels


def picture(labels: np.ndarray, chance: np.random.Generator) -> bytes:
    """A noisy picture of 10 x 8 pixels, in which each class that it shows brightens four pixels of its own."""
    blocks = np.repeat(np.repeat((labels != -1).reshape(4, 5), 2, axis=0), 2, axis=1)
    noisy = 90 + 40 * blocks[..., None] + chance.normal(0, 45, (8, 10, 3))
    out = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset, and a run that has its features."""
    root, chance = tmp_path_factory.mktemp("voc"), np.random.default_rng(0)
    for split, images in (("trainval", 160), ("test", 120)):
        labels = labels_of(images, chance)
        names = [f"{split}{number:04d}" for number in range(images)]
        folder = voc_lists(root / "voc2007", split, names, labels) / "JPEGImages"
        folder.mkdir(exist_ok=True)
        for name, row in zip(names, labels, strict=True):
            (folder / f"{name}.jpg").write_bytes(picture(row, chance))
    run, config = configured(root, "features")
    extract(run, config, "voc2007", Ranks(), StopRequest())
    return root


def configured(root: Path, name: str, *overrides: str) -> tuple[RunDir, Config]:
    """A run whose features are those of the fixture, once they exist."""
    config = load(None, Config, [
        f"data.root={root}", "data.subsets=[voc2007]", "data.workers=0", f"runs={root}/runs", f"name={name}",
        "extract.weights=pixels", "extract.datasets=[voc2007]", "extract.resize=8", "extract.crop=8", *overrides,
    ])  # fmt: skip
    run = RunDir.of(config)
    save_config(run, config)
    found = run.root.with_name("features") / "features"
    if found.exists() and name != "features":
        (run.root / "features").symlink_to(found)
    return run, config


def results(run: RunDir, seeds: int = 1) -> list[ProbeResult]:
    return [ProbeResult.read(run.probe("voc2007", "exact", seed)) for seed in range(seeds)]


def reference(train: Features, test: Features, c: float) -> np.ndarray:
    """The scores of scikit-learn, class by class, without the images that have the label 0."""
    x, scores = train.features.astype(np.float64), np.zeros(test.labels.shape)
    for k in range(20):
        known = train.labels[:, k] != 0
        model = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-10, max_iter=1000)
        model.fit(x[known], train.labels[known, k])
        scores[:, k] = model.decision_function(test.features.astype(np.float64))
    return scores


@pytest.mark.parametrize("how", ["float64", "float32", "read in pieces"])
def test_scores_are_those_of_one_logistic_regression_per_class_in_scikit_learn(
    home: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how != "float64":
        monkeypatch.setattr("trex.probing.multilabel.is_small", lambda *_: False)
    if how == "read in pieces":
        monkeypatch.setattr("trex.probing.dataset.solver_memory", lambda *_: SolverMemory(False, False, 0))
        monkeypatch.setattr("trex.probing.memory.PIECE", 64 * 200)
    run, config = configured(home, f"compared_{how.replace(' ', '_')}")
    probe(run, config, "voc2007", [0], StopRequest())
    (found,) = results(run)
    train, test = (open_features(run.features("voc2007", split)) for split in ("trainval", "test"))
    scores = reference(train, test, found.search.best["C"])
    shown = [k for k in range(20) if (test.labels[:, k] > 0).any()]
    areas = [average_precision_score(*_known(test.labels[:, k], scores[:, k])) for k in shown]
    assert found.test.map_area == pytest.approx(np.mean(areas), abs=1e-3)
    assert found.test.map11 == pytest.approx(mean_average_precision(test.labels, ranks(scores))[0, 0], abs=1e-3)
    assert 0.5 < found.test.main < 1
    assert (found.test.top1, found.test.nll, found.test.confusion) == (None, None, ())
    assert [k for k in range(20) if found.test.per_class[k] is not None] == shown
    assert found.counts.train + found.counts.validation == 160


def _known(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return labels[labels != 0] > 0, scores[labels != 0]


def test_smallest_c_within_half_a_standard_error_of_the_best_is_chosen(home: Path) -> None:
    run, config = configured(home, "chosen")
    probe(run, config, "voc2007", [0], StopRequest())
    search = results(run)[0].search
    train, _ = (open_features(run.features("voc2007", split)) for split in ("trainval", "test"))
    fold = multi_label_fold(train.labels, 0)
    values, errors = [], []
    parts = [replace(train, features=train.features[places], labels=train.labels[places]) for places in fold]
    for trial in search.trials:
        rank = ranks(reference(parts[0], parts[1], trial.values["C"]))
        values.append(mean_average_precision(parts[1].labels, rank)[0, 0])
        errors.append(replicates(parts[1].labels, rank, 200)[0].std())
    assert [trial.validation_score for trial in search.trials] == pytest.approx(values, abs=0.02)
    best = int(np.argmax(values))
    chosen = next(i for i, value in enumerate(values) if value >= values[best] - 0.5 * errors[best])
    assert search.best == search.trials[chosen].values
    assert 0 < chosen < len(values) - 1


def test_fold_has_a_fifth_of_each_class_and_no_image_of_a_class_with_a_single_one() -> None:
    chance = np.random.default_rng(0)
    labels = np.where(chance.random((3000, 20)) < np.linspace(0.01, 0.4, 20), 1, -1)
    labels[:, RARE] = np.where(np.arange(3000) == 17, 1, 0)
    train, validation = multi_label_fold(labels, 0)
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(3000))
    shares = (labels[validation] > 0).sum(0) / (labels > 0).sum(0)
    assert shares[RARE] == 0
    others = np.delete(shares, RARE)
    assert (others > 0.15).all()
    assert (others < 0.25).all()
    assert len(validation) / 3000 == pytest.approx(0.2, abs=0.02)
    assert not np.array_equal(validation, multi_label_fold(labels, 1)[1])


def test_interrupted_search_and_fit_continue_to_the_same_bits(home: Path) -> None:
    run, config = configured(home, "complete")
    probe(run, config, "voc2007", [0], StopRequest())
    other, _ = configured(home, "interrupted")
    stops = 0
    for _ in range(100):
        try:
            probe(other, config, "voc2007", [0], StopAfter(900))
            break
        except Interrupted:
            stops += 1
    assert stops > 2
    (one,), (resumed,) = results(run), results(other)
    assert resumed.test == one.test
    assert resumed.predictions == one.predictions
    assert [replace(t, seconds=0) for t in resumed.search.trials] == [replace(t, seconds=0) for t in one.search.trials]


def test_seeds_that_choose_the_same_c_share_the_final_fit(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, config = configured(home, "seeds")
    fits: list[float] = []
    fit = multilabel.fit
    monkeypatch.setattr(multilabel, "fit", lambda problem, c, partial: (fits.append(c), fit(problem, c, partial))[1])
    probe(run, config, "voc2007", range(4), StopRequest())
    found = results(run, 4)
    assert sorted(fits) == sorted({one.search.best["C"] for one in found})
    assert len({one.search.trials[3].validation_score for one in found}) > 1, "other validation images"


def test_kinds_that_cannot_be_fitted_are_left_out_and_named(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, config = configured(home, "kinds", "probe.kinds=[knn20, exact-5shot, exact, published]")
    with caplog.at_level(logging.WARNING):
        probe(run, config, "voc2007", [0], StopRequest())
    assert "only the kind exact can be fitted on such a dataset, not knn20, exact-5shot, published" in caplog.text
    assert [path.parent.name for path in run.probe_results()] == ["exact"]
    run, config = configured(home, "none", "probe.kinds=[knn20]")
    with pytest.raises(UserError, match="voc2007: an image may have several classes, and only the kind exact"):
        probe(run, config, "voc2007", [0], StopRequest())


def test_each_class_with_a_single_image_gives_a_fixed_c(tmp_path: Path) -> None:
    make("voc2007", tmp_path)
    run, config = configured(tmp_path, "fixed")
    extract(run, config, "voc2007", Ranks(), StopRequest())
    probe(run, config, "voc2007", [0], StopRequest())
    (found,) = results(run)
    assert (found.search.trials, found.counts.train, found.counts.validation) == ((), 10, 0)
    assert (found.counts.classes_without_training_images, found.test.classes_without_test_images) == (9, 10)


def test_labels_that_the_record_does_not_expect_are_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, config = configured(home, "other_record")
    monkeypatch.setattr("trex.probing.treatment.record", lambda name: replace(VOC, multi_label=False))
    with pytest.raises(UserError, match=r"its labels do not fit to the record of voc2007, which says .* one class"):
        probe(run, config, "voc2007", [0], StopRequest())


# ---- the file of rankings


def rankings(images: int = 300) -> Rankings:
    chance = np.random.default_rng(0)
    labels = chance.choice(np.array([-1, 0, 1], np.int8), (images, 4))
    return Rankings(labels, ranks(chance.normal(size=(images, 4))))


def test_rankings_are_read_as_they_were_written_and_give_the_scores_of_the_result(home: Path, tmp_path: Path) -> None:
    found, path = rankings(), tmp_path / "seed_0.npz"
    digest = write_rankings(path, found)
    again = read_rankings(path, digest, 300, 4)
    assert np.array_equal(again.rank, found.rank)
    assert np.array_equal(again.label, found.label)
    run, config = configured(home, "read")
    probe(run, config, "voc2007", [0], StopRequest())
    (result,), path = results(run), run.probe("voc2007", "exact", 0)
    read = read_predictions_of(result, path)
    assert isinstance(read, Rankings)
    assert mean_average_precision(read.label, read.rank)[:, 0] == pytest.approx(
        [result.test.map11, result.test.map_area]
    )
    predictions_file(path).write_bytes(b"damaged")
    with pytest.raises(UserError, match="its SHA-256 is not the one in the result file"):
        read_predictions_of(result, path)
    probe(run, config, "voc2007", [0], StopRequest())
    read_predictions_of(results(run)[0], path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": np.full((300, 4), 2, np.int8)}, r"the labels \[2\], expected 1 and perhaps"),
        ({"label": np.full((300, 4), -1, np.int8)}, r"the labels \[-1\], expected 1"),
        ({"rank": np.full((300, 4), 300, np.uint16)}, "the rank 300 for 300 images"),
        ({"rank": np.zeros((300, 4), np.uint8)}, r"rank is uint8 \(300, 4\), expected uint16 \(300, 4\)"),
        ({"rank": np.zeros((300, 3), np.uint16)}, r"rank is uint16 \(300, 3\), expected uint16 \(300, 4\)"),
    ],
)
def test_file_of_rankings_with_wrong_content_is_refused(
    tmp_path: Path, change: dict[str, np.ndarray], said: str
) -> None:
    path = tmp_path / "seed_0.npz"
    digest = write_rankings(path, replace(rankings(), **change))
    with pytest.raises(UserError, match=said):
        read_rankings(path, digest, 300, 4)
