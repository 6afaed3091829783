"""Metrics of a training: means over steps, what is written, what is cut off, and times for people."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.disks import small_disk
from tests.training.conftest import METHODS
from trex.config.schema import OptimizerConfig
from trex.distributed import Ranks
from trex.errors import ResumeRefused, UserError
from trex.methods import method_named
from trex.model.loss import Output
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir
from trex.training.checkpoint import Checkpoints
from trex.training.metrics import Curves, Meter
from trex.training.released import full_checkpoint
from trex.training.schedule import learning_rate
from trex.training.state import FORMAT, require_same_run
from trex.training.tensorboard import framed
from trex.wording import duration


def output(loss: float, *hits: float) -> Output:
    return Output(torch.tensor(loss), {"top1": torch.tensor(hits)})


def test_means_are_over_all_crops_since_the_last_line() -> None:
    meter = Meter(Ranks())
    meter.add(0, output(1.0, 100.0))
    meter.add(1, output(3.0, 0.0, 0.0, 0.0))
    assert meter.take() == {"loss": 2.0, "top1": 25.0}
    meter.add(2, output(5.0, 50.0))
    assert meter.take() == {"loss": 5.0, "top1": 50.0}
    assert meter.take() == {}


def test_sums_of_a_checkpoint_are_continued_by_rank_0_alone() -> None:
    meter, resumed, other = Meter(Ranks()), Meter(Ranks()), Meter(replace(Ranks(), rank=1))
    meter.add(0, output(1.0, 100.0))
    for one in (resumed, other):
        one.restore(meter.total())
        one.add(1, output(3.0, 0.0))
    assert resumed.take() == {"loss": 2.0, "top1": 50.0}
    assert other.total()["loss"].tolist() == [3.0, 1.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_first_step_whose_loss_is_not_finite_is_kept(bad: float) -> None:
    meter = Meter(Ranks())
    for step, loss in ((7, 1.0), (8, bad), (9, 1.0), (10, bad)):
        meter.add(step, output(loss))
    assert meter.first_not_finite() == 8


@pytest.fixture
def curves(tmp_path: Path):
    made = Curves(RunDir(tmp_path / "run"), Ranks())
    made.open(0, 0)
    yield made
    made.close()


def lines(tmp_path: Path) -> list[int]:
    return [line.step for line in MetricsLine.read_lines(RunDir(tmp_path / "run").metrics).strict()]


def test_value_that_no_chart_can_show_is_left_out_with_a_warning(
    curves: Curves, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        curves.write("train", 3, 0.5, {"loss": float("nan"), "lr": 0.1, "top1": 1e31})
    (line,) = MetricsLine.read_lines(RunDir(tmp_path / "run").metrics).strict()
    assert line.values == {"lr": 0.1}
    assert ["loss" in caplog.text, "top1" in caplog.text, "lr is" in caplog.text] == [True, True, False]


def test_lines_after_the_checkpoint_are_cut_off_when_it_is_resumed(curves: Curves, tmp_path: Path) -> None:
    curves.write("train", 1, 0.1, {"loss": 1.0})
    position = curves.position
    curves.write("train", 2, 0.2, {"loss": 1.0})
    curves.close()
    again = Curves(RunDir(tmp_path / "run"), Ranks())
    again.open(position, 1)
    assert lines(tmp_path) == [1]
    again.write("train", 2, 0.2, {"loss": 2.0})
    again.close()
    assert lines(tmp_path) == [1, 2]


def test_other_ranks_write_no_metrics(tmp_path: Path) -> None:
    other = Curves(RunDir(tmp_path / "run"), replace(Ranks(), rank=1))
    other.open(0, 0)
    other.write("train", 1, 0.1, {"loss": 1.0})
    other.close()
    assert other.position == 0
    assert not (tmp_path / "run").exists()


def test_full_disk_costs_one_warning_per_file_and_no_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small_disk(tmp_path / "disk", "size=256k") as disk, caplog.at_level(logging.INFO):
        run = RunDir(disk.folder / "run")
        made = Curves(run, Ranks())
        made.open(0, 0)
        for step in range(200):
            if step == 10:
                disk.fill()
            if step == 190:
                disk.empty()
            made.write("train", step, 0.5, {"loss": 1.0, "lr": 0.5})
        made.close()
        found = [line.step for line in MetricsLine.read_lines(run.metrics).strict()]
    assert found == list(range(200))
    said = ("disk full: cannot write", "the lines of this file are kept", "continues without TensorBoard",
            "can be written again; no line is missing")  # fmt: skip
    assert [caplog.text.count(one) for one in said] == [2, 1, 1, 1]


def test_lines_that_can_never_be_written_go_to_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunDir(tmp_path / "run")
    run.metrics.mkdir(parents=True)
    run.tensorboard.touch()
    made = Curves(run, Ranks())
    made.open(0, 0)
    made.write("train", 7, 0.5, {"loss": 1.0})
    assert made.position == 0
    assert [json.loads(line)["step"] for line in made.unwritten] == [7]
    made.close()
    assert f"lines that {run.metrics} lacks:\n{made.unwritten[0]}" in f"{caplog.text}\n"


def test_tensorboard_reads_the_copy_and_hides_what_is_done_again(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = RunDir(tmp_path / "run")
    for first, last, value in ((0, 6, 1.0), (4, 8, 2.0)):
        made = Curves(run, Ranks())
        made.open(0, first)
        for step in range(first, last):
            made.write("train", step, 0.5, {"loss": value})
        made.close()
    read = EventAccumulator(str(run.tensorboard))
    read.Reload()
    assert [(one.step, one.value) for one in read.Scalars("train/loss")] == [
        (0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0), (7, 2.0)
    ]  # fmt: skip


def test_records_have_the_bytes_of_tensorboards_own_writer() -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    for content in (b"", b"123456789", bytes(32), bytes(range(256)) * 5):
        file = io.BytesIO()
        RecordWriter(file).write(content)
        assert framed(content) == file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-5, "0 s"), (89.4, "89 s"), (90, "2 min"), (5369, "89 min"), (5400, "1 h 30 min"), (7199, "2 h 0 min"),
        (172_740, "47 h 59 min"), (172_800, "2 d 0 h"), (187_200, "2 d 4 h"),
    ],
)  # fmt: skip
def test_time_is_told_in_the_two_largest_units(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


@pytest.mark.parametrize("warmup", [0.0, 0.25, 1.0])
def test_rate_of_a_run_with_few_steps_is_finite_and_ends_near_the_last_rate(warmup: float) -> None:
    config = OptimizerConfig(lr=0.2, final_lr=0.01, warmup_epochs=warmup)
    rates = [learning_rate(step, 4, 1, config, batch_size=128) for step in range(4)]
    assert all(0 <= rate <= 0.1 + 1e-12 for rate in rates)
    assert rates[3] == pytest.approx(0.1) if warmup == 1.0 else 0.01 < rates[3] < 0.04


# ---- what does not belong to the run


def saved(**changes: object) -> dict[str, object]:
    return {"format": FORMAT, "data_digest": "d", "world": 2, **changes}


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"format": 1}, "format 1"), ({"data_digest": "e"}, "dataset"), ({"world": 4}, "train.allow_world_change")],
)
def test_state_of_another_format_dataset_or_number_of_processes_is_refused(
    changes: dict[str, object], said: str
) -> None:
    two = replace(Ranks(), world=2)
    require_same_run(saved(), [], "d", two, allow_world=False)
    with pytest.raises(ResumeRefused, match=said):
        require_same_run(saved(**changes), [], "d", two, allow_world=False)


def test_another_number_of_processes_can_be_allowed_and_nothing_else() -> None:
    require_same_run(saved(world=4), [], "d", Ranks(), allow_world=True)
    with pytest.raises(ResumeRefused, match=r"optimizer\.lr"):
        require_same_run(saved(world=4), ["optimizer.lr: was 1, is now 2"], "d", Ranks(), allow_world=True)


def test_folder_that_is_no_whole_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path / "epoch")):
        Checkpoints(tmp_path).at(tmp_path / "epoch")


def test_unknown_files_among_the_checkpoints_are_never_removed(tmp_path: Path) -> None:
    (tmp_path / "epoch-0000-step-00000001").mkdir()
    (tmp_path / "epoch-0000-step-00000001" / "notes.txt").write_text("mine")
    for step in range(2, 5):
        Checkpoints(tmp_path).write({"position": {"epoch": 0, "step": step, "global_step": step}}, keep=1)
    assert sorted(path.name[-1] for path in tmp_path.iterdir()) == ["1", "4"]


def test_smaller_keep_removes_what_earlier_attempts_kept(tmp_path: Path) -> None:
    for step, keep in ((1, 3), (2, 3), (3, 3), (4, 2)):
        Checkpoints(tmp_path).write({"position": {"epoch": 0, "step": step, "global_step": step}}, keep)
    assert sorted(path.name[-1] for path in tmp_path.iterdir()) == ["3", "4"]


# ---- checkpoints of this project as files to begin from

WEIGHTS = {"encoder.conv1.weight": torch.zeros(2)}
POSITION = {"epoch": 2, "step": 3, "global_step": 19}


def own(**changes: object) -> dict[str, object]:
    made: dict[str, object] = {"format": FORMAT, "model": WEIGHTS, "optimizer": {"o": 1}, "scaler": {}}
    return {**made, "position": POSITION, "classes": ["a", "b"], **changes}


@pytest.mark.parametrize("name", list(METHODS))
def test_own_checkpoint_is_read_for_every_method(name: str) -> None:
    found = full_checkpoint(own(), Path("checkpoint.pt"), method_named(name)())
    assert (found.epoch, found.step, found.global_step, found.classes) == (2, 3, 19, ("a", "b"))
    assert list(found.model) == list(WEIGHTS)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": FORMAT - 1},
        {"position": {"epoch": 2, "step": 3}},
        {"position": {**POSITION, "step": -1}},
        {"position": {**POSITION, "epoch": True}},
        {"position": 7},
        {"classes": None},
        {"model": {}},
        {"model": None},
    ],
    ids=str,
)
def test_own_checkpoint_that_is_not_whole_is_refused_by_name(changes: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"^checkpoint\.pt"):
        full_checkpoint(own(**changes), Path("checkpoint.pt"), method_named("trex_plain")())


@pytest.mark.parametrize("missing", ["optimizer", "scaler", "classes"])
def test_own_checkpoint_without_one_of_its_parts_names_it(missing: str) -> None:
    value = {key: part for key, part in own().items() if key != missing}
    with pytest.raises(UserError, match=missing):
        full_checkpoint(value, Path("checkpoint.pt"), method_named("trex_plain")())
