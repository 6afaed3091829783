"""PyTorch's SGD without the import of `torch._dynamo`."""

from __future__ import annotations

import inspect

import torch
from torch.optim import SGD


class Sgd(SGD):
    """`torch.optim.SGD`, step by step the same code, for a loop that is not compiled.

    PyTorch keeps its compiler out of these methods with decorators that import the compiler first, which takes 1.4 s of
    CPU. Without the decorators nothing is imported, and the methods are PyTorch's own (docs/adr/0039).
    """

    add_param_group = inspect.unwrap(SGD.add_param_group)
    load_state_dict = inspect.unwrap(SGD.load_state_dict)
    state_dict = inspect.unwrap(SGD.state_dict)
    zero_grad = inspect.unwrap(SGD.zero_grad)

    step = torch.no_grad()(inspect.unwrap(SGD.step))
