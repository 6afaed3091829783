"""Entry points of `torch.hub.load("/path/to/this/repository", "trex", …, source="local")`; see docs/zoo.md."""

from trex.hub import load_encoder as trex

__all__ = ["trex"]

dependencies = ["torch", "torchvision"]
