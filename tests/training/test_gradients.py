"""The means of gradients over several ranks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trex.distributed import Ranks
from trex.training.gradients import SharedGradients, same_on_every_rank


def network() -> nn.Sequential:
    """Convolutions in both memory formats, a linear layer, and a parameter that gets no gradient."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 7, 1, bias=False), nn.Flatten(), nn.Linear(7 * 16, 2))
    made[0].to(memory_format=torch.channels_last)
    made.register_parameter("unused", nn.Parameter(torch.ones(3)))
    return made


def images(rank: int) -> Tensor:
    return torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(rank))


def _shared(ranks: Ranks, bucket_bytes: int, parts: int) -> dict[str, Tensor]:
    net = network()
    shared = SharedGradients(net.parameters(), ranks.world, bucket_bytes)
    places = [p.grad.data_ptr() for p in net.parameters()]
    for _ in range(2):  # the second step sees what the first one left
        shared.clear()
        for number, part in enumerate(images(ranks.rank).chunk(parts)):
            shared.begin(last_part=number + 1 == parts)
            net(part).square().sum().backward()
        shared.finish()
    assert [p.grad.data_ptr() for p in net.parameters()] == places
    assert all(p.grad.stride() == p.stride() for p in net.parameters())
    return {name: p.grad.clone() for name, p in net.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("bucket_bytes", [1, 300, 2**20])
@pytest.mark.parametrize("parts", [1, 2])
def test_gradients_are_the_means_over_the_ranks(on_ranks, bucket_bytes: int, parts: int) -> None:
    expected = []
    for rank in range(2):
        net = network()
        net(images(rank)).square().sum().backward()
        expected.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
    for found in on_ranks(2, _shared, bucket_bytes, parts):
        assert torch.equal(found.pop("unused"), torch.zeros(3))
        assert found.keys() == expected[0].keys()
        for name, gradient in found.items():
            assert torch.allclose(gradient, (expected[0][name] + expected[1][name]) / 2, rtol=1e-5, atol=1e-6), name


def _started(ranks: Ranks) -> list[int]:
    """Return how many all-reduces had started when the gradient of each layer was there, from the last to the first."""
    net = nn.Sequential(*[nn.Linear(4, 4, bias=False) for _ in range(4)])
    shared = SharedGradients(net.parameters(), ranks.world, 2 * 4 * 16)  # two layers per bucket
    seen: list[int] = []
    for layer in reversed(net):
        layer.weight.register_post_accumulate_grad_hook(
            lambda _: seen.append(sum(bucket.work is not None for bucket in shared._buckets))
        )
    shared.begin()
    net(torch.ones(2, 4)).sum().backward()
    shared.finish()
    return seen


@pytest.mark.slow
def test_all_reduces_start_during_the_backward_pass(on_ranks) -> None:
    assert on_ranks(2, _started) == [[0, 1, 1, 2]] * 2


def _of_rank_0(ranks: Ranks) -> list[Tensor]:
    tensors = [torch.full((2, 3), float(ranks.rank)), torch.tensor(ranks.rank), torch.full((4,), 7.0 - ranks.rank)]
    image = torch.arange(24.0).view(1, 2, 3, 4) * (1 + ranks.rank)
    tensors.append(image.contiguous(memory_format=torch.channels_last))
    same_on_every_rank(tensors)
    return tensors


@pytest.mark.slow
def test_every_rank_gets_the_tensors_of_rank_0(on_ranks) -> None:
    expected = [torch.zeros(2, 3), torch.tensor(0), torch.full((4,), 7.0), torch.arange(24.0).view(1, 2, 3, 4)]
    for found in on_ranks(2, _of_rank_0):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
