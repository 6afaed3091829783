"""Fixtures for all tests: a function in several real gloo processes, and a real photograph.

Also decides which tests run in the same process if pytest-xdist runs them in several processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from sklearn.datasets import load_sample_images
from torch.distributed import FileStore

from trex.distributed import Ranks, joined

#: Tests that share an expensive fixture, a Slurm sandbox or a virtual environment. With `--dist loadgroup` one process
#: runs all tests whose id begins with one of these. Every other test runs in the next free process.
TOGETHER = ("tests/slurm/", "tests/test_wheel.py")
#: Niceness of all tests without Slurm: the tests with Slurm measure how soon a job is saved, so they have priority.
NICENESS = 3


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Replaces xdist's own loadgroup scheduler, which renames tests to store their groups: pytest 9.2 forbids that."""
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next((group for group in TOGETHER if nodeid.startswith(group)), nodeid)

    return Together(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give the tests with Slurm, which run in another process, priority on the processors."""
    if getattr(item.config.option, "loadgroup", False) and not item.nodeid.startswith("tests/slurm/"):
        os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))


def _entry(rank: int, world: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    store = FileStore(f"{folder}/store", world)
    with joined(rank, world, torch.device("cpu"), store) as ranks:
        torch.save(function(ranks, *args), f"{folder}/{rank}.pt")


@pytest.fixture
def on_ranks(tmp_path: Path):
    """`on_ranks(world, function, *args)` calls `function(ranks, *args)` on each rank and returns all results."""

    def run(world: int, function: Callable[..., Any], *args: Any) -> list[Any]:
        if world == 1:
            return [function(Ranks(), *args)]
        mp.spawn(_entry, (world, str(tmp_path), function, args), nprocs=world)
        return [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]

    return run


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """A real photograph, uint8 (375, 500, 3): one of scikit-learn's two samples."""
    return load_sample_images().images[0][:375, :500].copy()
