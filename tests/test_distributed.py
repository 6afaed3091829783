"""What the ranks say to each other, in real processes: waits without a limit, and waits that end."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import timedelta

import torch.distributed as dist

from trex import distributed
from trex.distributed import Ranks


def with_limit(ranks: Ranks, seconds: float) -> Ranks:
    """The ranks with a control group whose collectives fail after `seconds`."""
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=seconds))
    return replace(ranks, control=group)  # type: ignore[arg-type]


def wait_for_slow_work(ranks: Ranks) -> tuple[object, float]:
    distributed.SIGN_OF_LIFE_SECONDS = 0.2
    limited, began = with_limit(ranks, 1.0), time.monotonic()
    answer = limited.on_main(lambda: time.sleep(2.5) or f"made by {os.getpid()}")
    again = limited.on_main(lambda: None)
    assert again is None
    assert limited.maximum(ranks.rank) == ranks.world - 1, "the group is still usable"
    return answer, time.monotonic() - began


def test_ranks_wait_for_rank_0_longer_than_a_collective_may_take(on_ranks) -> None:
    results = on_ranks(2, wait_for_slow_work)
    assert len({answer for answer, _ in results}) == 1
    assert all(answer.startswith("made by") and seconds > 2.4 for answer, seconds in results)
