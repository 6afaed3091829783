"""The k-NN accuracy that a validation measures: leave-one-out, the same with any number of ranks, and only a metric."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from tests.training.conftest import assert_same_bits
from trex.datasets.registry import load_split
from trex.distributed import Ranks
from trex.errors import Interrupted
from trex.images.evaluation import evaluation_image
from trex.images.normalize import normalize
from trex.images.preprocessing import Geometry
from trex.interruption import StopRequest
from trex.model.parts import Parts
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir
from trex.training.checkpoint import Checkpoints
from trex.training.knn import leave_one_out
from trex.training.network import build_network
from trex.training.trainer import train
from trex.training.validation import validate


class Stopped(StopRequest):
    def __bool__(self) -> bool:
        return True


def clusters(count: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalized features around one center per class, which overlap, and their classes."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(classes, (count,), generator=generator)
    centers = torch.randn(classes, 16, generator=generator)
    return F.normalize(centers[labels] + 1.5 * torch.randn(count, 16, generator=generator), dim=1), labels


def _accuracy(
    ranks: Ranks, features: torch.Tensor, labels: torch.Tensor, k: int, read: torch.Tensor | None = None
) -> float:
    parts = Parts(nn.Identity(), {}, ranks)  # type: ignore[arg-type]
    mine = features[ranks.rank :: ranks.world]
    read = torch.ones(len(labels), dtype=torch.bool) if read is None else read
    return leave_one_out(mine, labels, read, k, parts, ranks, StopRequest())  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "k"), [(1201, 20), (1201, 1), (8, 20)])
def test_accuracy_is_that_of_scikit_learn_without_the_image_itself(count: int, k: int) -> None:
    """1201 images are three products, the last of which is smaller."""
    features, labels = clusters(count, 7)
    hits = 0
    for i in range(count):
        others = np.arange(count) != i
        model = KNeighborsClassifier(
            min(k, count - 1), metric="cosine", algorithm="brute", weights=lambda distance: np.exp(-distance / 0.07)
        ).fit(features[others].numpy(), labels[others].numpy())
        hits += int(model.predict(features[i : i + 1].numpy())[0] == labels[i])
    assert 20 < 100 * hits / count < 95, "neither chance nor perfect, so that a fault would show"
    assert _accuracy(Ranks(), features, labels, k) == 100 * hits / count


@pytest.mark.slow
@pytest.mark.parametrize("count", [9, 1201])
def test_ranks_measure_the_same_as_one_process(on_ranks, count: int) -> None:
    features, labels = clusters(count, 7)
    [alone] = on_ranks(1, _accuracy, features, labels, 5)
    assert on_ranks(3, _accuracy, features, labels, 5) == [alone] * 3


@pytest.mark.parametrize("k", [1, 20, 1000])
def test_images_that_could_not_be_read_neither_vote_nor_count(k: int) -> None:
    features, labels = clusters(600, 7)
    read = torch.rand(600, generator=torch.Generator().manual_seed(1)) > 0.1
    features[~read] = 0
    assert _accuracy(Ranks(), features, labels, k, read) == _accuracy(Ranks(), features[read], labels[read], k)


@pytest.mark.slow
def test_ranks_measure_the_same_without_the_images_that_could_not_be_read(on_ranks) -> None:
    features, labels = clusters(60, 7)
    read = torch.arange(60) % 7 != 3
    [alone] = on_ranks(1, _accuracy, features, labels, 5, read)
    assert on_ranks(3, _accuracy, features, labels, 5, read) == [alone] * 3


def test_stop_signal_ends_the_measurement() -> None:
    features, labels = clusters(10, 2)
    parts = Parts(nn.Identity(), {}, Ranks())  # type: ignore[arg-type]
    with pytest.raises(Interrupted):
        leave_one_out(features, labels, torch.ones(10, dtype=torch.bool), 3, parts, Ranks(), Stopped())  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["trex_class_means", "supervised"])
def test_validation_measures_the_features_of_the_encoder(tiny, method: str) -> None:
    config = tiny("unused", method=method)
    split = load_split("digits_seen", "test", config.data)
    model = build_network(config, len(split.classes), Ranks(), seed=3)
    sizes = {"geometry": Geometry(18, 16), "workers": 0, "amp": None, "batch_size": 64}
    found = validate(model, split, Ranks(), StopRequest(), knn=5, **sizes)
    assert validate(model, split, Ranks(), StopRequest(), **sizes).knn is None
    images = [torch.from_numpy(evaluation_image(split.read(i), Geometry(18, 16))) for i in range(len(split))]
    model.eval()
    with torch.no_grad():
        features = torch.cat(
            [model.encoder(normalize(torch.stack(images[i : i + 64]))) for i in range(0, len(split), 64)]
        )
    assert found.knn == _accuracy(Ranks(), F.normalize(features, dim=1), torch.from_numpy(split.labels), 5)
    assert found.knn > 40, "untrained features of digits are far from chance"
    assert not model.encoder._forward_hooks


@pytest.mark.slow
def test_metric_is_recorded_and_changes_no_bit_of_the_training(tiny, saved_run) -> None:
    torch.set_num_threads(1)
    states = []
    for name, neighbors in (("without", 0), ("with", 20)):
        config = tiny(name, f"train.validation_knn={neighbors}")
        run = saved_run(config)
        train(run, config, Ranks(), StopRequest())
        newest = Checkpoints(run.checkpoints).newest()
        assert newest is not None
        states.append(newest.load())
        values = [line.values for line in MetricsLine.read_lines(run.metrics).strict() if line.phase == "validation"]
        assert [("knn" in one) for one in values] == [bool(neighbors)] * 2
    assert {state["config"]["train"].pop("validation_knn") for state in states} == {0, 20}
    assert_same_bits(*states)
    run = RunDir.of(config)
    assert any(b"validation/knn" in path.read_bytes() for path in run.tensorboard.iterdir())
