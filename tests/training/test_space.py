"""A training or extraction without place for its result is refused before anything is computed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.disks import small_disk
from tests.training.conftest import METHODS
from trex import tensor_files
from trex.distributed import Ranks
from trex.errors import Unwritable
from trex.features.extract import extract
from trex.interruption import StopRequest
from trex.methods import Method
from trex.model.widths import encoder_size
from trex.records.events import read_events
from trex.records.manifest import Manifest
from trex.records.run_dir import RunDir
from trex.training import space
from trex.training.checkpoint import Checkpoints
from trex.training.network import build_network, network_on_meta
from trex.training.space import (
    checkpoint_bytes,
    missing_checkpoints,
    planned_checkpoint_bytes,
    require_place_for_checkpoints,
)
from trex.training.state import Position, TrainingState, make_optimizer
from trex.training.trainer import train


@pytest.mark.parametrize("method", ["trex_class_means", "supervised"])
def test_estimated_size_of_a_checkpoint_is_that_of_its_file(tiny, tmp_path: Path, method: str) -> None:
    config = tiny("size", method=method)
    model = build_network(config, 7, Ranks(), 0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state = TrainingState(model, make_optimizer(model, config.optimizer), scaler, Position())
    tensor_files.save(state.to_dict(Ranks(), config, ("a",) * 7, "digest"), tmp_path / "checkpoint.pt")
    estimate = checkpoint_bytes(network_on_meta(config, 7))
    assert estimate == pytest.approx((tmp_path / "checkpoint.pt").stat().st_size, rel=0.01)


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
@pytest.mark.parametrize("method", METHODS)
def test_size_of_a_checkpoint_is_known_without_its_network(tiny, method: str, encoder: str) -> None:
    more = () if method == "supervised" else ("method.hidden_layers=2",)
    config = tiny("planned", f"model.encoder={encoder}", *more, method=method)
    assert isinstance(config.method, Method)
    assert config.method.tensor_bytes(encoder_size(encoder), 7) is not None
    assert planned_checkpoint_bytes(config, 7) == checkpoint_bytes(network_on_meta(config, 7))


@pytest.mark.parametrize(
    ("keep", "every", "existing", "milestones", "missing"),
    [
        (2, 0, 0, 0, 3),  # two, and the next while it is written
        (2, 0, 2, 0, 1),
        (2, 0, 5, 0, 1),  # there is always a next one
        (1, 3, 0, 0, 2 + 3),  # after 3, 6 and 9 of 10 epochs
        (1, 3, 1, 2, 1 + 1),
        (1, 5, 0, 0, 2 + 1),  # that after 10 is one of those to keep
    ],
)
def test_checkpoints_that_exist_need_no_more_place(
    tiny, tmp_path: Path, keep: int, every: int, existing: int, milestones: int, missing: int
) -> None:
    config = tiny("count", f"checkpoint.keep={keep}", f"checkpoint.milestone_epochs={every}", "train.epochs=10")
    folder = RunDir.of(config).checkpoints
    for epoch in range(existing):
        (folder / f"epoch-0009-step-{epoch + 1:08d}").mkdir(parents=True)
    for epoch in range(milestones):
        path = folder / f"epoch-{epoch + 3:04d}-step-00000000"
        path.mkdir()
        (path / "checkpoint.pt").touch()
        Manifest(0, 0, "0" * 64, milestone=True, finished=False).write(path / "manifest.json")
    assert missing_checkpoints(folder, config) == missing


def test_less_place_than_for_all_checkpoints_is_a_warning_with_numbers(tiny, tmp_path: Path, caplog) -> None:
    config = tiny("place")
    with small_disk(tmp_path / "disk", "size=1000k") as disk:
        require_place_for_checkpoints(disk.folder / "checkpoints", config, 300_000, Ranks())
        assert caplog.text == ""
        require_place_for_checkpoints(disk.folder / "checkpoints", config, 500_000, Ranks())
        assert f"the file system {disk.folder} has 1.0 MB free and " in caplog.text
        assert "needs place for 3 more checkpoints of 500.0 kB, 1.5 MB together" in caplog.text
        with pytest.raises(Unwritable, match=r"no place for a checkpoint, .* 1\.1 MB are needed"):
            require_place_for_checkpoints(disk.folder / "checkpoints", config, 1_100_000, Ranks())
        assert not (disk.folder / "checkpoints").exists()


def refused(ranks: Ranks, folder: str) -> str:
    try:
        space.require_place("a checkpoint", Path(folder if ranks.is_main else "/"), 1 << 30, 1, ranks)
    except Unwritable as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_all_ranks_end_when_rank_0_sees_that_there_is_no_place(tmp_path: Path, on_ranks) -> None:
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        one, other = on_ranks(2, refused, str(disk.folder))
    assert one == other
    assert "no place for a checkpoint" in one


@pytest.mark.slow
def test_training_without_place_for_a_checkpoint_is_refused_before_its_first_step(tiny, saved_run, tmp_path) -> None:
    with small_disk(tmp_path / "disk", "size=50m") as disk:
        config = tiny("small", f"runs={disk.folder}", method="trex_plain")
        run = saved_run(config)
        with pytest.raises(
            Unwritable, match=f"no place for a checkpoint, so nothing is computed. disk full: .*{disk.folder}"
        ):
            train(run, config, Ranks(), StopRequest())
        assert not run.events.exists()
        assert not read_events(run.events).records
        assert Checkpoints(run.checkpoints).newest() is None


@pytest.mark.slow
def test_extraction_without_place_for_its_file_is_refused_before_its_first_block(tiny, saved_run, tmp_path) -> None:
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        config = tiny(
            "small", f"runs={disk.folder}", "extract.weights=pixels", "extract.datasets=[few_digits]",
            "extract.batch_size=16",
        )  # fmt: skip
        run = saved_run(config)
        with pytest.raises(
            Unwritable, match=r"no place for the features of few_digits trainval, .*134\.9 MB are needed"
        ):
            extract(run, config, "few_digits", Ranks(), StopRequest())
        assert not list(run.root.rglob("*.npy"))
