"""A packed dataset gives the same features and the same training as its folder, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.training.conftest import assert_same_bits
from trex.config import Config
from trex.config.schema import DataConfig
from trex.datasets.pack import write_pack
from trex.datasets.registry import load_splits
from trex.distributed import Ranks
from trex.features.extract import extract
from trex.features.store import open_features
from trex.interruption import StopRequest
from trex.records.run_dir import RunDir
from trex.training.checkpoint import Checkpoints
from trex.training.trainer import train


def result(run: RunDir, config: Config) -> tuple[dict, list[np.ndarray]]:
    train(run, config, Ranks(), StopRequest())
    extract(run, config, "few_digits", Ranks(), StopRequest())
    newest = Checkpoints(run.checkpoints).newest()
    assert newest is not None
    features = [open_features(run.features("few_digits", split)) for split in ("trainval", "test")]
    assert [found.provenance.split_digest for found in features]
    return newest.load(), [found.features for found in features]


@pytest.mark.slow
def test_pack_gives_the_features_and_the_training_of_the_folder(
    tiny, saved_run, few_digits: Path, tmp_path: Path
) -> None:
    folder = tiny("folder", "train.epochs=1", "data.workers=2", "extract.resize=18", "extract.crop=16")
    splits = load_splits("few_digits", DataConfig(folders={"few_digits": str(few_digits)}))
    write_pack(splits, tmp_path / "few_digits.pack", lambda _: None, file_bytes=50_000)
    place = {"few_digits": f"{tmp_path}/few_digits.pack"}
    packed = replace(folder, name="packed", data=replace(folder.data, folders=place))
    (one, rows), (other, same_rows) = (result(saved_run(config), config) for config in (folder, packed))
    for state in (one, other):
        state["config"]["data"].pop("folders", None)
    assert_same_bits(one, other)
    assert [found.tobytes() for found in rows] == [found.tobytes() for found in same_rows]
