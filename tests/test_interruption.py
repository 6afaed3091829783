"""A stop request in the slow parts of a start."""

from __future__ import annotations

import os
import signal
import time

import pytest

from trex.interruption import SIGNALS, StopRequest


@pytest.fixture
def stop():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield StopRequest().install()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signal_leaves_a_block_that_has_nothing_to_save(stop: StopRequest) -> None:
    began, done = time.monotonic(), []
    with stop.leaves():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
        done.append("all")
    assert (bool(stop), done) == (True, [])
    assert time.monotonic() - began < 10


def test_signal_after_the_block_only_sets_the_flag(stop: StopRequest) -> None:
    with stop.leaves():
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    assert stop.signal_name == "SIGTERM"


def test_error_in_the_block_is_not_hidden(stop: StopRequest) -> None:
    with pytest.raises(ValueError, match="mine"), stop.leaves():
        raise ValueError("mine")
