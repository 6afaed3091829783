"""How the ranks of a job meet: over a real store, and what ends the wait where one of them does not come."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.backend import SITE
from jobs.worker import rendezvous
from jobs.worker.place import Task
from trex.errors import Interrupted, TrexError
from trex.interruption import StopRequest
from trex.records.rendezvous import Canceled, Rendezvous
from trex.records.run_dir import RunDir

TASK = Task("local", "7", rank=0, world=2, local_rank=0, node="n1", node_count=1, restart=3, cpus=1)
OTHER = replace(TASK, rank=1)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def stopped() -> StopRequest:
    stop = StopRequest()
    stop.signal_name = "SIGTERM"
    return stop


def meet(run: RunDir, task: Task, stop: StopRequest | None = None) -> object:
    return rendezvous.meet(run, "train", task, SITE, StopRequest() if stop is None else stop)


def test_two_ranks_share_a_store(run: RunDir) -> None:
    answers: list[bytes] = []
    other = threading.Thread(target=lambda: answers.append(meet(run, OTHER).get("from rank 0")))  # type: ignore[attr-defined]
    other.start()
    store = meet(run, TASK)
    store.set("from rank 0", "hello")  # type: ignore[attr-defined]
    other.join(10)
    assert answers == [b"hello"]
    place = Rendezvous.read(run.rendezvous("train", "7", 3))
    assert (place.addresses, place.node) == (("127.0.0.1",), "n1")


def test_single_process_needs_no_store_and_leaves_no_file(run: RunDir) -> None:
    alone = replace(TASK, world=1)
    assert meet(run, alone) is None
    rendezvous.cancel(run, "train", alone, "why")
    assert not run.root.exists()


def test_rank_0_that_ended_is_an_error_with_its_reason(run: RunDir) -> None:
    rendezvous.cancel(run, "train", TASK, "another job holds the run")
    assert Canceled.read(run.canceled("train", "7", 3)).reason == "another job holds the run"
    with pytest.raises(TrexError, match="another job holds the run"):
        meet(run, OTHER)


def test_end_of_an_earlier_start_of_the_job_is_not_believed(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "WAIT_SECONDS", 0.3)
    rendezvous.cancel(run, "train", replace(TASK, restart=2), "why")
    with pytest.raises(TrexError, match="train-7-3"):
        meet(run, OTHER)


def test_signal_ends_the_wait_for_rank_0(run: RunDir) -> None:
    with pytest.raises(Interrupted, match="SIGTERM"):
        meet(run, OTHER, stopped())


def test_signal_before_all_ranks_have_met_ends_the_wait_of_rank_0(run: RunDir) -> None:
    with pytest.raises(Interrupted):
        meet(run, TASK, stopped())


def test_rank_that_never_comes_is_an_error_that_says_how_many_were_expected(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "WAIT_SECONDS", 0.3)
    began = time.monotonic()
    with pytest.raises(TrexError, match="2 ranks"):
        meet(run, TASK)
    assert time.monotonic() - began < 10


def test_place_where_nobody_listens_is_given_up_with_its_file(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "WAIT_SECONDS", 0.3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    Rendezvous(("127.0.0.1",), port, "token", "n1").write(run.rendezvous("train", "7", 3))
    with pytest.raises(TrexError, match=str(run.rendezvous("train", "7", 3))):
        meet(run, OTHER)


def test_store_of_another_job_on_the_same_port_is_not_taken(run: RunDir) -> None:
    stop = StopRequest()

    def wait_and_be_stopped() -> None:
        with pytest.raises(Interrupted):
            meet(run, TASK, stop)

    waiting = threading.Thread(target=wait_and_be_stopped, daemon=True)
    waiting.start()
    while not run.rendezvous("train", "7", 3).exists():
        time.sleep(0.01)
    place = Rendezvous.read(run.rendezvous("train", "7", 3))
    assert rendezvous._connect("127.0.0.1", place.port, "ours") is None
    assert rendezvous._connect("127.0.0.1", place.port, place.token) is not None
    stop.signal_name = "SIGTERM"
    waiting.join(10)
    assert not waiting.is_alive()


def test_addresses_of_names_that_do_not_resolve_are_left_out() -> None:
    found = rendezvous._addresses_of(["127.0.0.1", "no-such-host.invalid", "127.0.0.1"])
    assert found[0] == "127.0.0.1"
    assert found.count("127.0.0.1") == 1


def test_interface_of_an_address_is_found_by_name() -> None:
    assert rendezvous._interface_of("127.0.0.1") == "lo"
    assert rendezvous._interface_of("203.0.113.7") is None
