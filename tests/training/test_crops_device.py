"""`crops.device`: where the colors of the crops are changed makes no difference to a run."""

from __future__ import annotations

import os

import pytest
import torch

from tests.stopping import StopAfter
from tests.training.conftest import assert_same_bits
from tests.training.test_resume import final_state, finish
from trex.config import Config, load
from trex.distributed import Ranks
from trex.errors import Interrupted, UserError
from trex.training import batches
from trex.training.batches import ENOUGH_CPUS, finishes_on_gpu
from trex.training.trainer import train

GPU = Ranks(device=torch.device("cuda"))


def config(*settings: str) -> Config:
    return load(None, Config, settings)


def test_auto_is_the_gpu_if_few_processes_load_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: range(64))
    assert not finishes_on_gpu(config(f"data.workers={ENOUGH_CPUS}"), GPU)
    assert finishes_on_gpu(config(f"data.workers={ENOUGH_CPUS - 1}"), GPU)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: range(2))
    assert finishes_on_gpu(config(f"data.workers={ENOUGH_CPUS}"), GPU)
    assert not finishes_on_gpu(config("data.workers=0"), Ranks())


def test_what_is_asked_for_holds() -> None:
    assert finishes_on_gpu(config("crops.device=cuda", "data.workers=64"), GPU)
    assert not finishes_on_gpu(config("crops.device=cpu", "data.workers=0"), GPU)
    with pytest.raises(UserError, match="this training has no GPU: set it to auto or cpu"):
        finishes_on_gpu(config("crops.device=cuda"), Ranks())


@pytest.mark.slow
def test_run_may_change_between_the_two(tiny, saved_run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is the CPU here; the code is the same."""
    settings = tiny("in_the_loader", "train.epochs=1"), tiny("on_the_device", "train.epochs=1")
    one, other = (saved_run(config) for config in settings)
    finish(one, settings[0])
    with pytest.raises(Interrupted):
        train(other, settings[1], Ranks(), StopAfter(3))
    monkeypatch.setattr(batches, "finishes_on_gpu", lambda _config, _ranks: True)
    finish(other, settings[1])
    assert_same_bits(*(final_state(run)["model"] for run in (one, other)))
