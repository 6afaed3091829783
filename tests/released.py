"""A full checkpoint in the released layout, with random weights.

It is made only from the layout's description: with modules of its own, real steps of torch's SGD and an
`argparse.Namespace` that holds a numpy array.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

ENCODER, HIDDEN, OUTPUT, MEMORY, CLASSES, EPOCH = "resnet18", 32, 16, 96, 7, 1


class Unit(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


class Hidden(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, HIDDEN)
        self.bn = nn.BatchNorm1d(HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.bn(self.fc(x)))


class Head(nn.Module):
    def __init__(self, width: int, hidden_layers: int, normalized: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [Unit()] if normalized else []
        for _ in range(hidden_layers):
            layers.append(Hidden(width))
            width = HIDDEN
        self.layers = nn.Sequential(*layers, nn.Linear(width, OUTPUT, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Network(nn.Module):
    def __init__(self, hidden_layers: int, normalized: bool) -> None:
        super().__init__()
        self.encoder = torchvision.models.get_model(ENCODER)
        width = self.encoder.fc.in_features
        self.encoder.fc = nn.Identity()
        self.head = Head(width, hidden_layers, normalized)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


class Memory(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("features", torch.randn(MEMORY, OUTPUT))
        self.register_buffer("labels", torch.randint(CLASSES, (MEMORY,)))
        self.register_buffer("ptr", torch.tensor([5]))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(OUTPUT, CLASSES, bias=False)


class Released(nn.Module):
    """A model in the released layout, with `memory` (class means), `clf` (plain), or both.

    `normalized` is False for models that were trained with `--pr_no_input_l2_norm`.
    """

    def __init__(self, memory: bool = True, clf: bool = False, hidden_layers: int = 1, normalized: bool = True) -> None:
        super().__init__()
        self.model = Network(hidden_layers, normalized)
        if memory:
            self.model_ema = Network(hidden_layers, normalized).requires_grad_(False)
            self.memory = Memory()
        if clf:
            self.clf = Classifier()

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.model(x)
        return self.clf.fc(outputs) if hasattr(self, "clf") else outputs[:, :CLASSES]


class Wrapped(nn.Module):
    """Adds the prefix `module.` to names, as torch's DDP does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def two_groups(model: nn.Module) -> list[dict[str, Any]]:
    decayed = [p for n, p in model.named_parameters() if p.requires_grad and p.ndim > 1 and not n.endswith("bias")]
    others = [p for n, p in model.named_parameters() if p.requires_grad and (p.ndim <= 1 or n.endswith("bias"))]
    return [{"params": decayed, "weight_decay": 1e-4}, {"params": others, "weight_decay": 0.0}]


def arguments() -> argparse.Namespace:
    """The kinds of values that are in the `args` of a real file, numpy's included."""
    schedule = np.linspace(0, 0.1, 12)
    return argparse.Namespace(
        arch=ENCODER, lr_schedule=schedule, mc_global_scale=(0.4, 1.0), lr=schedule[3], seed=np.int64(7), output_dir="x"
    )


def released(amp: bool = True, **parts: Any) -> tuple[Wrapped, torch.optim.SGD, dict[str, Any]]:
    """A model after two training steps, its optimizer, and the checkpoint of both."""
    torch.manual_seed(1)
    model = Wrapped(Released(**parts))
    optimizer = torch.optim.SGD(two_groups(model), lr=0.01, momentum=0.9)
    for _ in range(2):
        loss = F.cross_entropy(model.module(torch.randn(4, 3, 32, 32)), torch.randint(CLASSES, (4,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": EPOCH,
        "args": arguments(),
    }
    if amp:
        checkpoint["fp16_scaler"] = torch.amp.GradScaler("cpu", init_scale=512.0).state_dict()
    return model, optimizer, checkpoint


def shrunk(value: Any) -> Any:
    """The checkpoint with the same names and shapes in a small file: the elements of a large tensor share one zero."""
    if isinstance(value, dict):
        return {key: shrunk(item) for key, item in value.items()}
    if isinstance(value, Tensor) and value.numel() > 2 * MEMORY * OUTPUT:
        return torch.zeros(1, dtype=value.dtype).expand(value.shape)
    return value
