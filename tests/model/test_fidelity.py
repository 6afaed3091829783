"""The method compared with short direct formulas in float64, step by step."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trex.config.schema import Config, ModelConfig, OptimizerConfig, TrainConfig
from trex.distributed import Ranks
from trex.errors import UserError
from trex.methods.trex_class_means import TrexClassMeans
from trex.methods.trex_plain import TrexPlain
from trex.model.encoder import build_encoder
from trex.model.heads import ClassMeans, PlainHead
from trex.model.loss import Output
from trex.model.projector import Projector
from trex.training.network import Network, build_network
from trex.training.scaler import CountingScaler
from trex.training.schedule import learning_rate
from trex.training.state import Position, TrainingState, make_optimizer
from trex.training.step import Step

K, DIM = 5, 6


def config_of(bank_size: int) -> Config:
    """A config with a memory bank of `bank_size` features, or with learned class weights if it is 0."""
    small = {"hidden_layers": 1, "hidden_dim": 8, "output_dim": DIM, "temperature": 0.1}
    method = TrexClassMeans(memory_bank_size=bank_size, momentum=0.9, **small) if bank_size else TrexPlain(**small)
    return Config(model=ModelConfig(encoder="resnet18"), method=method)


def model(bank_size: int = 20, seed: int = 0) -> Network:
    return build_network(config_of(bank_size), K, Ranks(), seed).double()


def batch(seed: int, size: int = 4) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    crops = [
        torch.randn(size, 3, 32, 32, generator=generator, dtype=torch.float64),
        torch.randn(2 * size, 3, 16, 16, generator=generator, dtype=torch.float64),
    ]
    return crops, torch.randint(K, (size,), generator=generator)


def forward(net: Network, crops: list[Tensor], labels: Tensor) -> Output:
    """Compute the loss, then do all updates that need no gradient."""
    output = net(crops, labels)
    if finish := net.update(crops, labels):
        finish()
    return output


def test_encoder_has_torchvisions_keys_and_features() -> None:
    import torchvision

    reference = torchvision.models.resnet50()
    encoder = build_encoder("resnet50")
    missing, unexpected = reference.load_state_dict(encoder.state_dict(), strict=False)
    assert (sorted(missing), unexpected) == (["fc.bias", "fc.weight"], [])
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    reference.fc = nn.Identity()
    reference.double().eval(), encoder.double().eval()
    assert torch.allclose(encoder(images), reference(images), rtol=1e-9)
    assert encoder.feature_dim == 2048


def test_error_for_an_unknown_encoder_suggests_the_nearest_name() -> None:
    with pytest.raises(UserError, match="did you mean 'resnet50'"):
        build_encoder("resnet5")


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_projector_is_linear_norm_gelu_then_linear_without_bias(layers: int, normalized: bool) -> None:
    projector = Projector(10, layers, 8, DIM, normalize_input=normalized).double()
    x = torch.randn(7, 10, dtype=torch.float64)
    expected = x / x.norm(dim=1, keepdim=True) if normalized else x
    weights = dict(projector.named_parameters())
    for layer in range(layers):
        linear, norm = f"{layer + normalized}.fc", f"{layer + normalized}.bn"
        expected = expected @ weights[f"{linear}.weight"].T + weights[f"{linear}.bias"]
        expected = (expected - expected.mean(0)) / (expected.var(0, unbiased=False) + 1e-5).sqrt()
        expected = expected * weights[f"{norm}.weight"] + weights[f"{norm}.bias"]
        expected = expected * 0.5 * (1 + torch.erf(expected / math.sqrt(2)))
    expected = expected @ weights[f"{layers + normalized}.weight"].T
    assert f"{layers + normalized}.bias" not in weights
    assert torch.allclose(projector(x), expected, atol=1e-12)
    linears = [m for m in Projector(500, 1, 400, 300, normalize_input=normalized).modules() if isinstance(m, nn.Linear)]
    assert all(abs(float(m.weight.detach().std()) - 0.02) < 5e-4 for m in linears)
    assert not linears[0].bias.any()


def test_plain_logits_are_cosines_over_temperature() -> None:
    head = PlainHead(DIM, K, 0.1)
    z = torch.randn(4, DIM)
    w = head.weight
    expected = (z / z.norm(dim=1, keepdim=True)) @ (w / w.norm(dim=1, keepdim=True)).T / 0.1
    assert torch.allclose(head(z), expected, atol=1e-5)
    assert float(w.detach().abs().max()) <= 1 / math.sqrt(DIM)  # nn.Linear's default: uniform within ± 1/sqrt(fan in)


def test_class_means_are_normalized_sums_over_the_memory_bank() -> None:
    head = ClassMeans(DIM, K, 0.1, size=12)
    head.labels[head.labels == 3] = 2  # class 3 has no features
    z = torch.randn(4, DIM)
    means = torch.stack([head.features[head.labels == k].sum(0) for k in range(K)])
    means = means / means.norm(dim=1, keepdim=True).clamp_min(1e-12)
    assert torch.allclose(head(z), (z / z.norm(dim=1, keepdim=True)) @ means.T / 0.1, atol=1e-4)
    assert head(z)[:, 3].abs().max() == 0
    exact = head.weights()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head.weights().dtype == torch.float32
        assert torch.equal(head.weights(), exact)
    assert not exact.requires_grad


def test_batch_is_cut_at_the_end_of_the_memory_bank_and_the_pointer_returns_to_zero() -> None:
    head = ClassMeans(2, K, 0.1, size=7)
    rows = torch.arange(30.0).view(15, 2)
    labels = torch.arange(15) % K
    expected_features, expected_labels, pointer = head.features.clone(), head.labels.clone(), 0
    for begin in range(0, 15, 3):
        fits = min(3, 7 - pointer)
        expected_features[pointer : pointer + fits] = rows[begin : begin + fits]
        expected_labels[pointer : pointer + fits] = labels[begin : begin + fits]
        pointer = 0 if pointer + 3 >= 7 else pointer + 3
        head.store(rows[begin : begin + 3], labels[begin : begin + 3])
        assert torch.equal(head.features, expected_features)
        assert torch.equal(head.labels, expected_labels)
        assert int(head.pointer) == pointer


def test_batch_larger_than_the_memory_bank_fills_it() -> None:
    head = ClassMeans(2, K, 0.1, size=3)
    rows = torch.arange(10.0).view(5, 2)
    head.store(rows, torch.zeros(5, dtype=torch.int64))
    assert torch.equal(head.features, rows[:3])
    assert int(head.pointer) == 0


def test_memory_bank_starts_with_normal_features_and_uniform_labels() -> None:
    head = ClassMeans(64, K, 0.1, size=4096)
    assert abs(float(head.features.std()) - 1) < 0.01
    assert torch.bincount(head.labels, minlength=K).min() > 4096 / K * 0.8


@pytest.mark.slow
@pytest.mark.parametrize("bank_size", [0, 10])
def test_steps_follow_the_equations(bank_size: int) -> None:
    """Compares loss, gradients, momentum networks and memory bank over several steps, in the method's order."""
    ours = model(bank_size)
    reference = copy.deepcopy(ours)
    slow = copy.deepcopy((reference.encoder, reference.projector))
    optimizer = make_optimizer(ours, OptimizerConfig())
    theirs = make_optimizer(reference, OptimizerConfig())
    pointer = 0
    for step in range(4):
        crops, labels = batch(step)
        output = forward(ours, crops, labels)
        z = reference.projector(torch.cat([reference.encoder(crop) for crop in crops]))
        z = z / z.norm(dim=1, keepdim=True)
        if bank_size:
            bank = reference.classifier
            means = torch.stack([bank.features[bank.labels == k].sum(0) for k in range(K)])
            w = means / means.norm(dim=1, keepdim=True).clamp_min(1e-12)
        else:
            w = reference.classifier.weight / reference.classifier.weight.norm(dim=1, keepdim=True)
        logits = z @ w.detach().T / 0.1 if bank_size else z @ w.T / 0.1
        log_p = logits - logits.logsumexp(1, keepdim=True)
        repeated = torch.cat([labels] * 3)
        loss = -log_p[torch.arange(12), repeated].mean()
        assert torch.allclose(output.loss, loss, rtol=1e-10)
        if bank_size:  # after the logits were computed from the old memory bank, and before the optimizer's step
            with torch.no_grad():
                for net, source in zip(slow, (reference.encoder, reference.projector), strict=True):
                    for p, q in zip(net.parameters(), source.parameters(), strict=True):
                        p.mul_(0.9).add_(q, alpha=0.1)
                stored = slow[1](slow[0](crops[0]))
            fits = min(4, bank_size - pointer)
            bank.features[pointer : pointer + fits] = stored[:fits]
            bank.labels[pointer : pointer + fits] = labels[:fits]
            pointer = 0 if pointer + 4 >= bank_size else pointer + 4
            assert torch.allclose(ours.classifier.features, bank.features, rtol=1e-10)
            assert torch.equal(ours.classifier.labels, bank.labels)
        for loss_, optim in ((output.loss, optimizer), (loss, theirs)):
            optim.zero_grad()
            loss_.backward()
        for (name, p), q in zip(ours.named_parameters(), reference.parameters(), strict=True):
            if p.requires_grad:
                # the gradient of a bias before a batch norm is 0 up to rounding
                assert (p.grad - q.grad).norm() <= 1e-7 * q.grad.norm() + 1e-12, name
        optimizer.step(), theirs.step()


def test_momentum_update_changes_parameters_but_not_batch_norm_statistics() -> None:
    net = model()
    crops, labels = batch(0)
    with torch.no_grad():
        next(net.encoder.parameters()).add_(1.0)
    before = next(net.momentum_encoder.parameters()).clone()
    forward(net, crops, labels)
    moved = next(net.momentum_encoder.parameters())
    assert torch.allclose(moved, 0.9 * before + 0.1 * next(net.encoder.parameters()))
    fast, slow = net.encoder.bn1.running_mean, net.momentum_encoder.bn1.running_mean
    assert float(slow.abs().max()) > 0
    assert not torch.allclose(fast, slow)
    assert not any(p.requires_grad for p in net.momentum_encoder.parameters())


@pytest.mark.parametrize("second", ["same resolution", "other resolution"])
def test_only_the_first_global_crop_enters_the_memory_bank(second: str) -> None:
    """It is rows 0 … B - 1 of the first resolution. The batch norms of the momentum networks see only these rows."""
    net = model(bank_size=20)
    (first, other), labels = batch(0)
    crops = [first, other]
    if second == "same resolution":
        crops = [torch.cat([first, torch.flip(first, [0]) + 1, first.roll(1, 0) - 1])]
    encoder, projector = copy.deepcopy((net.encoder, net.projector))  # the momentum networks start as copies of these
    with torch.no_grad():
        expected = projector(encoder(first))
    forward(net, crops, labels)
    assert torch.allclose(net.classifier.features[:4], expected, rtol=1e-10)
    assert torch.equal(net.classifier.labels[:4], labels)
    assert int(net.classifier.pointer) == 4
    assert torch.allclose(net.momentum_encoder.bn1.running_mean, encoder.bn1.running_mean)


@pytest.mark.parametrize("bank_size", [0, 20])
def test_loss_and_class_weights_are_float32_under_autocast(bank_size: int) -> None:
    net = model(bank_size).float()
    crops, labels = batch(0)
    made: list[Tensor] = []
    net.classifier.register_forward_hook(lambda _module, _inputs, logits: made.append(logits))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, metrics = forward(net, [crop.float() for crop in crops], labels)
    logits = made[0].float()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(F.cross_entropy(logits, labels.repeat(3)).item(), rel=1e-6)
    assert torch.equal(metrics["top1"], 100.0 * (logits.argmax(1) == labels.repeat(3)))
    assert net.encoder.conv1.weight.dtype == torch.float32
    if bank_size:
        assert net.classifier.features.dtype == torch.float32


def test_evaluation_uses_the_trained_networks_and_does_not_change_the_memory_bank() -> None:
    net = model(bank_size=20).eval()
    with torch.no_grad():
        for slow in (net.momentum_encoder, net.momentum_projector):
            for parameter in slow.parameters():
                parameter.zero_()
    crops, _ = batch(0)
    before = net.classifier.features.clone()
    z = net.projector(net.encoder(crops[0]))
    bank = net.classifier
    means = torch.stack([bank.features[bank.labels == k].sum(0) for k in range(K)])
    expected = (z / z.norm(dim=1, keepdim=True)) @ (means / means.norm(dim=1, keepdim=True)).T / 0.1
    assert torch.allclose(net.classify(crops[0]), expected, rtol=1e-9)
    assert torch.equal(net.classifier.features, before)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.rand(3)
    before = torch.get_rng_state()
    a, b, c = model(seed=1).state_dict(), model(seed=1).state_dict(), model(seed=2).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["encoder.conv1.weight"], c["encoder.conv1.weight"])
    assert torch.equal(a["encoder.conv1.weight"], a["momentum_encoder.conv1.weight"])


def test_biases_and_one_dimensional_parameters_have_no_weight_decay() -> None:
    optimizer = make_optimizer(model(), OptimizerConfig())
    decayed, spared = optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (1e-4, 0)
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in spared["params"])


@pytest.mark.parametrize("bank_size", [0, 20])
def test_exactly_the_learned_parameters_are_optimized(bank_size: int) -> None:
    net = model(bank_size)
    groups = make_optimizer(net, OptimizerConfig()).param_groups
    optimized = {id(p) for group in groups for p in group["params"]}
    expected = {
        name for name, _ in net.named_parameters() if name.startswith(("encoder.", "projector.", "classifier."))
    }
    assert {name for name, p in net.named_parameters() if id(p) in optimized} == expected
    assert ("classifier.weight" in expected) == (bank_size == 0)


def test_optimizer_is_sgd_with_momentum_and_coupled_weight_decay() -> None:
    """v ← 0.9 v + g + 1e-4 w (no decay if w is 1-D), w ← w - lr v, with v = 0 before the first step."""
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    optimizer = make_optimizer(net, OptimizerConfig())
    generator = torch.Generator().manual_seed(0)
    expected = [p.detach().clone() for p in net.parameters()]
    velocities = [torch.zeros_like(w) for w in expected]
    for rate in (0.0, 0.1, 0.2, 0.05):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for place, (p, w) in enumerate(zip(net.parameters(), expected, strict=True)):
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            v = 0.9 * velocities[place] + p.grad + (1e-4 * w if w.ndim > 1 else 0)
            expected[place], velocities[place] = w - rate * v, v
        optimizer.step()
    for p, w in zip(net.parameters(), expected, strict=True):
        assert torch.allclose(p, w, rtol=1e-12, atol=1e-14)


def test_learning_rate_warms_up_to_the_peak_and_falls_as_a_cosine() -> None:
    config = OptimizerConfig()
    rates = [learning_rate(step, 50, 100, config, 512) for step in range(5000)]
    peak = 0.1 * 512 / 256
    assert rates[0] == 0
    assert rates[499] == pytest.approx(peak)
    assert rates[250] == pytest.approx(peak * 250 / 499)
    assert rates[500] == pytest.approx(peak)
    assert rates[500 + 4500 // 2] == pytest.approx((peak + 1e-6) / 2)
    cosine = [1e-6 + (peak - 1e-6) * (1 + math.cos(math.pi * k / 4500)) / 2 for k in range(4500)]
    assert rates[500:] == pytest.approx(cosine)
    assert 1e-6 < rates[-1] < 1.1e-6
    assert all(a >= b for a, b in pairwise(rates[499:]))


def test_schedule_without_warmup_starts_at_the_peak() -> None:
    assert learning_rate(0, 10, 3, OptimizerConfig(warmup_epochs=0), 256) == pytest.approx(0.1)


def _train(ranks: Ranks, bank_size: int, steps: int) -> dict[str, Tensor]:
    net = build_network(config_of(bank_size), K, ranks, 0).double()
    optimizer = make_optimizer(net, OptimizerConfig())
    state = TrainingState(net, optimizer, CountingScaler("cpu", enabled=False), Position())
    taken = Step(state, TrainConfig(precision="off"), ranks)
    share = 8 // ranks.world
    part = slice(ranks.rank * share, (ranks.rank + 1) * share)
    for step in range(steps):
        crops, labels = batch(step, size=8)
        mine = [crops[0][part], crops[1].unflatten(0, (2, 8))[:, part].flatten(0, 1)]
        taken.gradients(mine, labels[part])
        taken.update()
    return net.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("bank_size", [0, 20])
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_equal_one_process_with_the_whole_batch(on_ranks, bank_size: int, world: int) -> None:
    alone = on_ranks(1, _train, bank_size, 4)[0]
    together = on_ranks(world, _train, bank_size, 4)
    for key, value in alone.items():
        for rank in together:
            assert torch.allclose(rank[key].double(), value.double(), rtol=1e-7, atol=1e-10), key
        assert all(torch.equal(rank[key], together[0][key]) for rank in together), key


def _normalized(ranks: Ranks, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    from trex.model.batchnorm import synchronize

    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(3))
    net[0].weight.data.normal_()
    net = synchronize(net, ranks)
    sizes = [5, 3] if ranks.world == 2 else [8]  # ranks may have different numbers of images
    mine = x.split(sizes)[ranks.rank].clone().requires_grad_()
    y = net(mine)
    y.sin().sum().backward()
    return y.detach(), mine.grad, net[0].running_var


@pytest.mark.slow
def test_synchronized_batch_norm_equals_batch_norm_of_the_whole_batch(on_ranks) -> None:
    x = torch.randn(8, 3, 4, 4) * 3 + 5
    y, gradient, variance = on_ranks(1, _normalized, x)[0]
    parts = on_ranks(2, _normalized, x)
    assert torch.allclose(torch.cat([part[0] for part in parts]), y, atol=1e-5)
    assert torch.allclose(torch.cat([part[1] for part in parts]), gradient, atol=1e-5)
    assert torch.allclose(parts[0][2], variance, atol=1e-5)


def test_memory_bank_begins_with_normal_features_and_uniform_labels() -> None:
    torch.manual_seed(5)
    bank = ClassMeans(DIM, K, temperature=0.1, size=1000)
    torch.manual_seed(5)
    assert torch.equal(bank.features, torch.randn(1000, DIM))
    assert torch.equal(bank.labels, torch.randint(K, (1000,)))
