"""The training's SGD is PyTorch's, bit for bit, and a training imports no more than it needs."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD

from trex.training.sgd import Sgd


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))


def groups(net: nn.Module) -> list[dict[str, object]]:
    matrices = [one for one in net.parameters() if one.ndim > 1]
    return [
        {"params": matrices, "weight_decay": 1e-4},
        {"params": [one for one in net.parameters() if one.ndim <= 1], "weight_decay": 0.0},
    ]


def steps(net: nn.Module, optimizer: SGD, first: int, last: int) -> None:
    for number in range(first, last):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (number + 1)
        torch.manual_seed(number)
        net(torch.randn(4, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("how", [{}, {"fused": True}, {"foreach": True}, {"momentum": 0.0}])
def test_steps_and_states_are_those_of_pytorch(how: dict[str, float]) -> None:
    settings = {"lr": 0.1, "momentum": 0.9, **how}
    ours, theirs = network(), network()
    mine, other = Sgd(groups(ours), **settings), SGD(groups(theirs), **settings)
    steps(ours, mine, 0, 3)
    steps(theirs, other, 0, 3)
    saved = copy.deepcopy(mine.state_dict())
    assert_equal(saved, other.state_dict())
    mine, other = Sgd(groups(ours), **settings), SGD(groups(theirs), **settings)
    mine.load_state_dict(copy.deepcopy(saved))
    other.load_state_dict(saved)
    steps(ours, mine, 3, 6)
    steps(theirs, other, 3, 6)
    assert_equal(mine.state_dict(), other.state_dict())
    assert_equal(ours.state_dict(), theirs.state_dict())


def assert_equal(one: object, other: object) -> None:
    if isinstance(one, torch.Tensor):
        assert isinstance(other, torch.Tensor)
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert isinstance(other, dict)
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_equal(value, other[key])
    elif isinstance(one, list):
        assert isinstance(other, list)
        for mine, theirs in zip(one, other, strict=True):
            assert_equal(mine, theirs)
    else:
        assert one == other


PROGRAM = """
import sys
from pathlib import Path
from trex.config import Config, load
from trex.distributed import Ranks
from trex.interruption import StopRequest
from trex.records.run_dir import RunDir
from trex.training.network import network_on_meta
from trex.training.trainer import train

config = load(Path(sys.argv[1]), Config)
network_on_meta(config, 7)
train(RunDir.of(config), config, Ranks(), StopRequest())
print([name for name in ("torch._dynamo", "sympy", "torchvision", "sklearn", "absl") if name in sys.modules])
"""


@pytest.mark.slow
def test_training_with_one_rank_imports_neither_the_compiler_nor_torchvision(
    tiny, saved_run, few_images: str, tmp_path: Path
) -> None:
    config = tiny("imports", few_images, "train.batch_size=56", "train.epochs=1")
    run = saved_run(config)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(run.config)], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
