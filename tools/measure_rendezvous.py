"""Measures how long the ranks of a job need to find each other, with pretended ranks on this machine (docs/scale.md).

    python tools/measure_rendezvous.py 64 512 2048

The other ranks are threads of forked processes, 64 in each. All of them meet rank 0 through jobs/worker/rendezvous.py,
over the loopback. No image is read and nothing is computed.
"""

from __future__ import annotations

import multiprocessing as mp
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path

from torch._C._distributed_c10d import Store  # before the fork, so that PyTorch is imported once

from jobs.backend import SITE
from jobs.worker import rendezvous
from jobs.worker.place import Task
from trex.interruption import StopRequest
from trex.records.run_dir import RunDir

_RANKS_PER_PROCESS = 64


def meet(run: Path, rank: int, world: int) -> Store:
    """Meet as one rank of a job with one node."""
    task = Task("local", "1", rank, world, local_rank=rank, node="n1", node_count=1, restart=0, cpus=1)
    store = rendezvous.meet(RunDir(run), "train", task, SITE, StopRequest(), 300.0)
    assert store is not None
    return store


def pretend(run: Path, ranks: Sequence[int], world: int, all_here: Barrier) -> None:
    """Be several ranks, which wait in the store until rank 0 has measured."""
    all_here.wait()
    threads = [threading.Thread(target=lambda rank=rank: meet(run, rank, world).get("measured")) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measure(world: int, folder: Path) -> str:
    """Meet with `world` ranks. Returns what it took."""
    context = mp.get_context("fork")
    groups = [range(first, min(first + _RANKS_PER_PROCESS, world)) for first in range(1, world, _RANKS_PER_PROCESS)]
    all_here = context.Barrier(len(groups) + 1)
    processes = [context.Process(target=pretend, args=(folder, ranks, world, all_here)) for ranks in groups]
    for process in processes:
        process.start()
    all_here.wait()
    began, cpu = time.monotonic(), time.process_time()
    store = meet(folder, 0, world)
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    opened = len(list(Path("/proc/self/fd").iterdir()))
    store.set("measured", "")
    for process in processes:
        process.join()
    return f"{world} ranks: met after {seconds:.1f} s, {cpu:.2f} s of CPU and {opened} open files in rank 0"


if __name__ == "__main__":
    for word in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as place:
            print(measure(int(word), Path(place) / "run"), flush=True)
