"""The order in which streams copy, wait and release memory. No GPU is needed: the streams are recorders."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from trex.training.transfer import Transfer


class Streams:
    """Stands in for torch.cuda, and writes down what is asked of it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.active = "computing"

    def Stream(self, device: torch.device) -> Stream:  # noqa: N802 - torch's name
        return Stream(self, "copying")

    def current_stream(self, device: torch.device) -> Stream:
        return Stream(self, self.active)

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.active = self.active, stream.name
        yield
        self.active = before


class Stream:
    def __init__(self, owner: Streams, name: str) -> None:
        self.owner, self.name = owner, name

    def wait_stream(self, other: Stream) -> None:
        self.owner.calls.append(f"{self.name} waits for {other.name}")


class Pinned:
    """A tensor in host memory, or its copy."""

    def __init__(self, owner: Streams, name: str) -> None:
        self.owner, self.name = owner, name

    def to(self, device: torch.device, non_blocking: bool) -> Pinned:
        assert non_blocking
        self.owner.calls.append(f"{self.owner.active} copies {self.name}")
        return Pinned(self.owner, f"{self.name} on {device}")

    def record_stream(self, stream: Stream) -> None:
        self.owner.calls.append(f"{self.name} is used by {stream.name}")


def test_copies_run_beside_the_computation_which_waits_for_them_and_owns_them() -> None:
    streams = Streams()
    transfer = Transfer(torch.device("cuda:1"), streams)
    copies = transfer([Pinned(streams, "crops"), Pinned(streams, "labels")])
    assert [copy.name for copy in copies] == ["crops on cuda:1", "labels on cuda:1"]
    assert streams.calls == [
        "copying copies crops",
        "copying copies labels",
        "computing waits for copying",
        "crops on cuda:1 is used by computing",
        "labels on cuda:1 is used by computing",
    ]


def test_a_cpu_uses_the_tensors_themselves() -> None:
    tensor = torch.ones(2)
    assert Transfer(torch.device("cpu"))([tensor])[0] is tensor
