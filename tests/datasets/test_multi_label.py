"""A dataset whose images have several classes: its lists, its features, and where it cannot be used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.plan.runs import save_config
from tests.datasets.trees import make
from tests.feature_files import overwrite
from trex.config import Config, load
from trex.datasets.registry import known, load_split
from trex.datasets.sets.voc2007 import CLASSES
from trex.distributed import Ranks
from trex.errors import UserError
from trex.features.extract import extract
from trex.features.store import open_features
from trex.interruption import StopRequest
from trex.records.run_dir import RunDir
from trex.training.batches import make_batches


def expected(first: int) -> np.ndarray:
    labels = np.full((10, 20), -1, np.int8)
    for row, image in enumerate(range(first, first + 10)):
        labels[row, image + 1 : image + 2] = 0
        labels[row, [image, CLASSES.index("person")]] = 1
    return labels


@pytest.fixture
def config(tmp_path: Path) -> Config:
    make("voc2007", tmp_path)
    return load(None, Config, [
        f"data.root={tmp_path}", "data.subsets=[voc2007]", "data.workers=0", "data.dataset=voc2007",
        f"runs={tmp_path}/runs", "extract.weights=pixels", "extract.datasets=[voc2007]",
        "extract.resize=8", "extract.crop=8", "train.batch_size=2",
    ])  # fmt: skip


def test_record_has_the_official_counts() -> None:
    counts = known()["voc2007"].counts
    assert counts is not None
    assert (counts.classes, counts.trainval, counts.test) == (20, 5011, 4952)


def test_each_image_has_a_label_per_class_and_difficult_ones_are_zero(config: Config) -> None:
    for split, first in (("trainval", 0), ("test", 10)):
        found = load_split("voc2007", split, config.data)
        assert found.multi_label
        assert found.labels.dtype == np.int8
        assert np.array_equal(found.labels, expected(first))
        assert [found.name(i) for i in range(10)] == [f"JPEGImages/{i:06d}.jpg" for i in range(first, first + 10)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("000000 2\n", r"bird_test\.txt, line 1: found '000000 2', expected an image and -1, 0 or 1"),
        ("000010 1 1\n", r"bird_test\.txt, line 1"),
        ("000010 one\n", r"bird_test\.txt, line 1"),
        ("000010  1\n000010 -1\n", r"bird_test\.txt, line 2: the image '000010' has another label"),
        ("000010  1\n", r"only one of aeroplane_test\.txt and bird_test\.txt has the image '000011'"),
    ],
)
def test_odd_line_is_named(config: Config, lines: str, message: str) -> None:
    root = Path(config.data.root) / "voc2007/VOCdevkit/VOC2007"
    (root / "ImageSets/Main/bird_test.txt").write_text(lines)
    with pytest.raises(UserError, match=message):
        load_split("voc2007", "test", config.data)


def test_features_are_stored_with_the_labels_of_all_classes(config: Config) -> None:
    run = RunDir.of(config)
    save_config(run, config)
    extract(run, config, "voc2007", Ranks(), StopRequest())
    found = open_features(run.features("voc2007", "test"))
    assert np.array_equal(found.labels, expected(10))
    assert found.classes == CLASSES
    overwrite(run.features("voc2007", "test"), "labels", np.array([2]))
    with pytest.raises(UserError, match=r"test\.h5: damaged: labels from -1 to 2"):
        open_features(run.features("voc2007", "test"))


def test_training_on_it_is_refused(config: Config) -> None:
    with pytest.raises(UserError, match=r"data\.dataset is voc2007: its images may have several classes"):
        make_batches(config, load_split("voc2007", "trainval", config.data), Ranks())


@pytest.mark.parametrize(("name", "wanted"), [("voc2007", "one label"), ("digits_seen", "a tuple of labels")])
def test_record_that_contradicts_its_reader_is_refused(
    config: Config, monkeypatch: pytest.MonkeyPatch, name: str, wanted: str
) -> None:
    wrong = replace(known()[name], multi_label=name != "voc2007")
    monkeypatch.setattr("trex.datasets.registry.known", lambda: {name: wrong})
    with pytest.raises(UserError, match=f"'{name}': its record has multi_label={wrong.multi_label}, .* {wanted} for"):
        load_split(name, "test", config.data)
