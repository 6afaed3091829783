"""Only finite states are saved, and a training that makes no progress ends and says why."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.pictures import write_digits
from tests.stopping import StopAfter
from tests.training.conftest import flat
from tests.training.test_resume import final_state, finish
from trex.config.schema import OptimizerConfig
from trex.distributed import Ranks
from trex.errors import Interrupted, TrexError
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir
from trex.training import finite, trainer
from trex.training.checkpoint import Checkpoints
from trex.training.finite import first_not_finite
from trex.training.metrics import Meter
from trex.training.scaler import CountingScaler
from trex.training.state import Position, TrainingState
from trex.training.trainer import train


@pytest.fixture
def fp16(tmp_path: Path) -> tuple[str, ...]:
    """Settings of a training in fp16 with 14 steps of two images, because a CPU computes slowly in fp16."""
    write_digits(tmp_path / "few", train=2, val=1)
    images = (f"data.folders.few_digits={tmp_path}/few", "train.batch_size=2", "crops.local_count=0")
    return ("train.precision=fp16", "method.memory_bank_size=6", *images)


@pytest.fixture
def bad_gradients(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], bool]], None]:
    """Makes the gradient of one weight infinite, in the steps that the given function chooses by number from 1."""

    def install(chosen: Callable[[int], bool]) -> None:
        build = trainer.build_network
        steps = [0]

        def spoil(gradient: Tensor) -> Tensor:
            steps[0] += 1
            return gradient * float("inf") if chosen(steps[0]) else gradient

        def spoiled(*arguments):
            model = build(*arguments)
            model.get_parameter("encoder.conv1.weight").register_hook(spoil)
            return model

        monkeypatch.setattr(trainer, "build_network", spoiled)

    return install


def assert_finite(run: RunDir) -> int:
    """Check that all tensors of the newest checkpoint are finite; return its step."""
    newest = Checkpoints(run.checkpoints).newest()
    assert newest is not None
    saved = newest.load()
    assert first_not_finite({key: v for key, v in flat(saved).items() if isinstance(v, Tensor)}) is None
    return saved["position"]["global_step"]


def test_momentum_is_checked_like_the_weights(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = trainer.make_optimizer(model, OptimizerConfig())
    state = TrainingState(model, optimizer, CountingScaler("cpu", enabled=False), Position(global_step=7))
    checks = finite.FiniteChecks(RunDir(tmp_path), state, Meter(Ranks()), Ranks())
    checks.before_save(is_end=False)
    optimizer.state[model.bias]["momentum_buffer"][1] = float("inf")
    with pytest.raises(TrexError, match="momentum_buffer of bias is not finite after step 7"):
        checks.before_save(is_end=False)


@pytest.mark.slow
def test_infinite_gradients_are_never_saved_and_the_error_names_tensor_and_commands(
    tiny, saved_run, bad_gradients
) -> None:
    bad_gradients(lambda step: step == 5)
    config = tiny("spoiled", "checkpoint.every_steps=1", "checkpoint.keep=1", "train.log_every=100")
    run = saved_run(config)
    with pytest.raises(TrexError, match=r"encoder\.conv1\.weight is not finite after step 5") as error:
        finish(run, config)
    assert assert_finite(run) == 4
    message = str(error.value)
    assert "epoch-0000-step-00000004 (step 4), is finite" in message
    start = re.search(r"train\.start=(\S+) train\.start_with=all", message)
    assert start is not None
    assert Path(start[1]).is_file()


@pytest.mark.long
@pytest.mark.slow
def test_command_in_the_error_continues_with_another_setting(tiny, saved_run, bad_gradients) -> None:
    bad_gradients(lambda step: step == 5)
    config = tiny("spoiled", "checkpoint.every_steps=1")
    with pytest.raises(TrexError) as error:
        finish(saved_run(config), config)
    start = re.search(r"(train\.start=\S+) (train\.start_with=all)", str(error.value))
    assert start is not None
    again = tiny("spoiled_2", "optimizer.lr=0.01", start[1], start[2])
    finish(saved_run(again), again)
    assert final_state(RunDir.of(again))["position"]["global_step"] == 14


@pytest.mark.slow
@pytest.mark.parametrize("limit", [32, pytest.param(5, marks=pytest.mark.long)])
def test_training_whose_steps_are_all_skipped_ends_and_names_the_gradient(
    tiny, saved_run, bad_gradients, fp16, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finite, "MAX_SKIPPED_IN_A_ROW", limit)
    bad_gradients(lambda step: True)
    config = tiny("skips", *fp16)
    run = saved_run(config)
    with pytest.raises(TrexError, match=r"skipped the last \d+ steps.*gradient of encoder\.conv1\.weight") as error:
        finish(run, config)
    newest = Checkpoints(run.checkpoints).newest()
    assert newest is None or not newest.finished
    assert f"until step {9 if limit == 5 else 14}" in str(error.value)


@pytest.mark.long
@pytest.mark.slow
def test_skipped_steps_are_counted_across_an_interruption_and_logged_with_the_scale(
    tiny, saved_run, bad_gradients, fp16
) -> None:
    bad_gradients(lambda step: True)
    config = tiny("few", *fp16, "train.log_every=1")
    run = saved_run(config)
    with pytest.raises(Interrupted):
        train(run, config, Ranks(), StopAfter(5))
    with pytest.raises(TrexError, match="skipped the last 14 steps"):
        finish(run, config)
    lines = [line.values for line in MetricsLine.read_lines(run.metrics).strict() if line.phase == "train"]
    assert [line["skipped_steps"] for line in lines] == list(range(1, 15))
    assert [line["loss_scale"] for line in lines] == [2.0 ** (15 - step) for step in range(14)]


def test_scaler_counts_skipped_steps_in_total_and_in_a_row() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scaler = CountingScaler("cpu", enabled=True)
    counts = []
    for factor in (1.0, float("inf"), float("nan"), 1.0, float("inf")):
        optimizer.zero_grad()
        scaler.scale((weight * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        counts.append(scaler.skipped())
    assert counts == [(0, 0), (1, 1), (2, 2), (2, 0), (3, 1)]
    again = CountingScaler("cpu", enabled=True)
    again.load_state_dict(scaler.state_dict())
    assert again.skipped() == (3, 1)


def test_scaler_whose_scale_has_become_zero_still_counts() -> None:
    scaler = CountingScaler("cpu", enabled=True)
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        scaler.scale((weight * float("inf")).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.skipped() == (400, 400)
