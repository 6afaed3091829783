"""How the ranks of a job meet: over a real store, and what ends the wait where one of them does not come."""

from __future__ import annotations

import contextlib
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from jobs.backend import SITE
from jobs.worker import rendezvous
from jobs.worker.meeting import connect
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


def meet(run: RunDir, task: Task, stop: StopRequest | None = None, seconds: float = 60.0) -> TCPStore:
    return rendezvous.meet(run, "train", task, SITE, StopRequest() if stop is None else stop, seconds)


def test_two_ranks_share_a_store(run: RunDir) -> None:
    answers: list[bytes] = []
    other = threading.Thread(target=lambda: answers.append(meet(run, OTHER).get("from rank 0")))
    other.start()
    store = meet(run, TASK)
    store.set("from rank 0", "hello")
    other.join(10)
    assert answers == [b"hello"]
    assert list((run.jobs / "rendezvous").iterdir()) == [], "nobody needs the file after they have met"


def test_more_ranks_meet_than_the_soft_limit_of_open_files_allows(run: RunDir) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 60, before[1]))
    task, met = replace(TASK, world=41), []
    others = [
        threading.Thread(target=lambda rank=rank: met.append(meet(run, replace(task, rank=rank))))
        for rank in range(1, 41)
    ]
    try:
        for other in others:
            other.start()
        met.append(meet(run, task))
        for other in others:
            other.join(30)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(met) == 41


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


def test_rank_that_ended_is_named_to_the_others(run: RunDir) -> None:
    rendezvous.cancel(run, "train", OTHER, "no such image")
    with pytest.raises(TrexError, match="rank 1 on n1: no such image"):
        meet(run, TASK)


def test_end_of_an_earlier_start_of_the_job_is_not_believed(run: RunDir) -> None:
    rendezvous.cancel(run, "train", replace(TASK, restart=2), "why")
    with pytest.raises(TrexError, match="train-7-3"):
        meet(run, OTHER, seconds=0.3)


def test_signal_ends_the_wait_for_rank_0(run: RunDir) -> None:
    with pytest.raises(Interrupted, match="SIGTERM"):
        meet(run, OTHER, stopped())


def test_signal_before_all_ranks_have_met_ends_the_wait_of_rank_0(run: RunDir) -> None:
    with pytest.raises(Interrupted):
        meet(run, TASK, stopped())


def test_signal_to_one_rank_ends_the_wait_of_all(run: RunDir) -> None:
    """Rank 1 gets the signal, and rank 2 never comes."""
    tasks = [replace(TASK, world=3, rank=rank) for rank in (0, 1)]
    stop, ended = StopRequest(), []

    def wait(task: Task, request: StopRequest) -> None:
        with pytest.raises(Interrupted):
            meet(run, task, request)
        ended.append(task.rank)

    threads = [threading.Thread(target=wait, args=pair) for pair in zip(tasks, (StopRequest(), stop), strict=True)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    stop.signal_name, stop.received_at = "SIGTERM", time.time()
    for thread in threads:
        thread.join(10)
    assert sorted(ended) == [0, 1]


def test_ranks_that_never_come_are_named(run: RunDir) -> None:
    began = time.monotonic()
    with pytest.raises(TrexError, match=r"of 3 ranks, .* within 0.3 s \(limits.start_seconds\): 1, 2"):
        meet(run, replace(TASK, world=3), seconds=0.3)
    assert time.monotonic() - began < 10


def test_place_where_nobody_listens_is_given_up_with_its_file(run: RunDir) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    Rendezvous(("127.0.0.1",), port, "token", "n1").write(run.rendezvous("train", "7", 3))
    with pytest.raises(TrexError, match=str(run.rendezvous("train", "7", 3))):
        meet(run, OTHER, seconds=0.3)


@pytest.fixture
def place(run: RunDir) -> Iterator[Rendezvous]:
    """Where rank 0 waits for rank 1, which comes at the end: both must meet, whatever a stranger did meanwhile."""
    stores: list[TCPStore] = []
    waiting = threading.Thread(target=lambda: stores.append(meet(run, TASK)), daemon=True)
    waiting.start()
    while not run.rendezvous("train", "7", 3).exists():
        time.sleep(0.01)
    yield Rendezvous.read(run.rendezvous("train", "7", 3))
    stores.append(meet(run, OTHER))
    waiting.join(10)
    assert len(stores) == 2
    stores[0].set("key", "value")
    assert stores[1].get("key") == b"value"


def test_rank_0_listens_at_the_loopback_only_if_all_ranks_are_on_its_node(place: Rendezvous) -> None:
    with pytest.raises(ConnectionRefusedError):  # 127.0.0.2 is this machine too
        socket.create_connection(("127.0.0.2", place.port), timeout=2)


#: What another user's program does that can connect to rank 0, but cannot read the file: {port} is all it knows.
STRANGER = """
import json, socket, sys
from datetime import timedelta
from torch.distributed import TCPStore
line = socket.create_connection(("127.0.0.1", {port}))
number = json.loads(line.recv(1000))
line.sendall(json.dumps([1, "00", "0" * 64, "127.0.0.1"]).encode() + b"\\n")
assert line.recv(1000) == b"", "was believed"
for said in (b'"stop"\\n', b'{{"stopped": "x"}}\\n', b"[1, [], 3, 4]\\n", b"\\xff\\n", b"x" * 10_000, b"\\n" * 5000):
    other = socket.create_connection(("127.0.0.1", {port}))
    other.sendall(said)
silent = [socket.create_connection(("127.0.0.1", {port})) for _ in range(200)]
try:
    store = TCPStore("127.0.0.1", {port}, is_master=False, timeout=timedelta(seconds=1))
    store.set("decision", "off")
    print("READ", store.get("token"))
except RuntimeError as error:
    print("refused")
"""


def test_process_that_does_not_know_the_secret_learns_nothing_and_ends_nothing(place: Rendezvous) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STRANGER.format(port=place.port)], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.strip(), place.token in done.stdout + done.stderr) == ("refused", False), done.stderr


def test_rank_does_not_believe_who_listens_at_the_port_of_rank_0(run: RunDir) -> None:
    """Another user's program, which got the port after rank 0 had ended, and says what rank 0 would say."""
    said = []

    def pretend(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection:
                    connection.sendall(b'"00"\n')
                    said.append(connection.recv(1000))
                    connection.sendall(b'"' + b"0" * 64 + b'"\n{"stopped": "by another user"}\n')

    with socket.create_server(("127.0.0.1", 0)) as listening:
        place = Rendezvous(("127.0.0.1",), listening.getsockname()[1], "secret", "n1")
        place.write(run.rendezvous("train", "7", 3))
        threading.Thread(target=pretend, args=(listening,), daemon=True).start()
        with pytest.raises(TrexError, match="could not be reached"):
            meet(run, OTHER, seconds=1.0)
    assert said
    assert not any(b"secret" in answer for answer in said)


def test_rank_that_ends_after_it_has_arrived_is_named(run: RunDir) -> None:
    errors: list[TrexError] = []

    def wait() -> None:
        try:
            meet(run, replace(TASK, world=3))
        except TrexError as error:
            errors.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    while not run.rendezvous("train", "7", 3).exists():
        time.sleep(0.01)
    there = Rendezvous.read(run.rendezvous("train", "7", 3))
    line = connect("127.0.0.1", there.port, there.token, 2, to_other_node=False)
    assert line is not None
    line.close()
    waiting.join(10)
    assert ["rank 2 ended before the ranks were connected" in str(error) for error in errors] == [True]


def test_store_of_the_ranks_listens_at_one_address() -> None:
    store = rendezvous._store("127.0.0.1", 0, 10.0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", store.port), timeout=2)
    assert rendezvous._store("127.0.0.1", store.port, 10.0).num_keys() >= 0


def test_ranks_on_other_nodes_meet_at_the_address_of_the_node(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")  # as the user may; otherwise it is set for this process
    first, second = replace(TASK, node_count=2), replace(OTHER, node_count=2, node="n2")
    stores: list[TCPStore] = []
    waiting = threading.Thread(target=lambda: stores.append(meet(run, first)))
    waiting.start()
    while not run.rendezvous("train", "7", 3).exists():
        time.sleep(0.01)
    place = Rendezvous.read(run.rendezvous("train", "7", 3))
    store = meet(run, second)
    waiting.join(10)
    assert store.host == stores[0].host == place.addresses[0]
    assert (place.node, "0.0.0.0" in place.addresses) == ("n1", False)
    store.set("key", "value")
    assert stores[0].get("key") == b"value"


def test_addresses_of_names_that_do_not_resolve_are_left_out() -> None:
    found = rendezvous._addresses_of(["127.0.0.1", "no-such-host.invalid", "127.0.0.1"])
    assert found[0] == "127.0.0.1"
    assert found.count("127.0.0.1") == 1


def test_interface_of_an_address_is_found_by_name() -> None:
    assert rendezvous._interface_of("127.0.0.1") == "lo"
    assert rendezvous._interface_of("203.0.113.7") is None
