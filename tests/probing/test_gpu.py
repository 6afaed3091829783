"""The exact solver on a GPU, with fake CUDA tensors: they have shapes, types and devices, but no values.

PyTorch raises an error where an operation mixes tensors of two devices, as it does on a real GPU. Numbers that the
program reads from tensors are 0.5 here, so the results mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from trex.errors import UserError
from trex.interruption import StopRequest
from trex.probing.design import Basis, Design
from trex.probing.exact import Problem
from trex.probing.hardware import device_of
from trex.probing.memory import Place
from trex.probing.rows import Rows
from trex.probing.solution import Accuracy, PathState
from trex.probing.solver import RegularizationPath

IMAGES, DIM, CLASSES = 300, 16, 4
FEW = Accuracy(1e-9, iterations=2)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("trex.probing.memory.SMALL_PRODUCT", 0)
    monkeypatch.setattr("trex.probing.memory.SAMPLE", 20)
    whether = torch.Tensor.any
    for tensor in (torch.Tensor, FakeTensor):
        monkeypatch.setattr(tensor, "__float__", lambda _: 0.5, raising=False)
        monkeypatch.setattr(tensor, "tolist", lambda one: [0.5] * max(one.numel(), 1), raising=False)
    monkeypatch.setattr(torch.Tensor, "any", lambda one, *args: whether(one, *args) if args else True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def on_gpu(place: Place) -> Design:
    device = torch.device("cuda")
    rows = Rows(np.random.default_rng(0).random((IMAGES, DIM)).astype(np.float32))
    axes = torch.zeros(DIM, DIM, dtype=torch.float64, device=device)
    basis = Basis(axes[0], axes, axes[0] + 1, scale=1.0, radius=3.0)
    return Design.at(rows, basis, CLASSES, place)


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("place", ["rotated", "half", "file"])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("fast", [True, False])
def test_solver_mixes_no_devices(place: Place, keep: bool, fast: bool) -> None:
    labels, stop = np.arange(IMAGES) % CLASSES, StopRequest()
    design = on_gpu(place)
    assert design.device.type == "cuda"
    half, some = design.subset(np.arange(0, IMAGES, 2)), labels[::2]
    path = RegularizationPath(half, some, CLASSES, stop, keep, None, fast)
    path.solve(1.0, FEW)
    path.solve(2.0, FEW)
    path.solve_precisely(2.0, FEW)
    state = path.state()
    assert state.weights.device.type == "cpu", "states are stored in files"
    weights = RegularizationPath(half, some, CLASSES, stop, keep, state, fast).solve(4.0, FEW).weights
    assert all(logits.device.type == "cuda" for logits in design.logits(weights))
    precise = Problem(design, labels, CLASSES, keep, stop, fast).precise_path(
        PathState(torch.zeros(CLASSES, DIM + 1), None, (), None, fast=False)
    )
    assert precise.solve(1.0, FEW).weights.dtype == torch.float64


@pytest.mark.usefixtures("fake")
def test_basis_is_computed_on_the_gpu_and_a_mixture_is_an_error() -> None:
    rows = Rows(np.random.default_rng(0).random((IMAGES, DIM)).astype(np.float32))
    assert Basis.of(rows, torch.device("cuda")).vectors.device.type == "cuda"
    with pytest.raises(RuntimeError, match="device"):
        list(on_gpu("rotated").logits(torch.zeros(CLASSES, DIM + 1)))


def test_gpu_that_is_wanted_and_missing_is_an_error_that_says_what_to_set() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    assert [device_of(wanted, gpu) for wanted in ("auto", "cuda", "cpu")] == [gpu, gpu, cpu]
    assert device_of("auto", cpu) == cpu
    with pytest.raises(UserError, match=r"probe\.device is cuda, but this job has no GPU: set gpus_per_node: 1"):
        device_of("cuda", cpu)
