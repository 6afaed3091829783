"""A training that would continue with another number of processes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.stopping import StopAfter
from trex.config import Config
from trex.distributed import Ranks
from trex.errors import Interrupted, ResumeRefused
from trex.interruption import StopRequest
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir
from trex.training.trainer import train


def _continue(ranks: Ranks, config: Config) -> str:
    """Continue without and with the permission; return the message of the refusal."""
    run = RunDir.of(config)
    before = sorted(run.checkpoints.iterdir())
    with pytest.raises(ResumeRefused) as refused:
        train(run, config, ranks, StopRequest())
    assert sorted(run.checkpoints.iterdir()) == before
    train(run, replace(config, train=replace(config.train, allow_world_change=True)), ranks, StopRequest())
    return str(refused.value)


@pytest.mark.slow
def test_it_continues_only_if_the_config_allows_that(tiny, saved_run, on_ranks) -> None:
    config = tiny("one", "train.epochs=1")
    run = saved_run(config)
    with pytest.raises(Interrupted):
        train(run, config, Ranks(), StopAfter(2))
    for said in on_ranks(2, _continue, config):
        assert "started with 1 processes and would continue with 2" in said
        assert "train.allow_world_change=true" in said
    assert MetricsLine.read_lines(run.metrics).records[-1].epoch == 1
