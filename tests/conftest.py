"""Fixtures for all tests: a function in several real gloo processes, and a real photograph."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from _pytest.terminal import TerminalReporter
from sklearn.datasets import load_sample_images
from torch.distributed import FileStore

from tests.faults import table as faults
from trex.distributed import Ranks, joined

#: Tests neither read the defaults of the user who runs them nor add to the list of that user's runs.
_HOME = tempfile.TemporaryDirectory(prefix="trex-home-")
Path(_HOME.name).chmod(0o755)  # some tests run commands as another user
_TESTS = itertools.count()
os.environ |= {"XDG_CONFIG_HOME": f"{_HOME.name}/config", "XDG_STATE_HOME": f"{_HOME.name}/state"}


@pytest.fixture(autouse=True)
def own_list_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds the runs of another one by their names."""
    monkeypatch.setenv("XDG_STATE_HOME", f"{_HOME.name}/state-{next(_TESTS)}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", action="store_true", help="run only the tests that break something; print a table")


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--faults"):
        reports = [one for kind in ("passed", "failed", "error") for one in terminalreporter.stats.get(kind, [])]
        terminalreporter.section("faults (docs/reliability.md)")
        for line in faults.table(one for one in reports if one.when == "call" or not one.passed):
            terminalreporter.line(line)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run those of Slurm first, then by their time limits, so that several processes end at about the same time."""
    if config.getoption("--faults"):
        faults.select(config, items)

    def order(item: pytest.Item) -> tuple[bool, float, bool]:
        slurm, limit, slow = (item.get_closest_marker(name) for name in ("slurm", "timeout", "slow"))
        return slurm is None, -float(limit.args[0]) if limit else 0.0, slow is None

    items.sort(key=order)


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
        # The server imports PyTorch once, and then starts each rank in a moment.
        multiprocessing.set_forkserver_preload(["tests.conftest"])
        mp.start_processes(_entry, (world, str(tmp_path), function, args), nprocs=world, start_method="forkserver")
        return [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]

    return run


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """A real photograph, uint8 (375, 500, 3): one of scikit-learn's two samples."""
    return load_sample_images().images[0][:375, :500].copy()
