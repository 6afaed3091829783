"""The trainer's steps and validation compared with a plain PyTorch implementation of the equations."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
import torchvision.transforms as T
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from tests.training.test_resume import finish
from trex.config import Config
from trex.datasets.registry import load_split
from trex.distributed import Ranks
from trex.interruption import StopRequest
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir
from trex.training.network import Network
from trex.training.trainer import Trainer

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
STEPS = 5
FIVE_STEPS = ("train.batch_size=16", "optimizer.lr=0.8", "optimizer.warmup_epochs=0.22")  # three steps of warm-up


def trainer(config: Config, ranks: Ranks | None = None) -> Trainer:
    made = Trainer(RunDir.of(config), config, ranks or Ranks(), StopRequest())
    made.resume(None)
    made.curves.close()
    return made


def float64_trainer(config: Config, ranks: Ranks | None = None) -> Trainer:
    """A trainer whose network computes in float64.

    In float32, an untrained ResNet on small images amplifies rounding errors to thousandths within three steps, which
    could hide a mistake.
    """
    torch.set_default_dtype(torch.float64)
    try:
        made = trainer(config, ranks)
    finally:
        torch.set_default_dtype(torch.float32)
    model = made.state.model
    for name, part in model.named_children():
        if name in ("encoder", "momentum_encoder"):
            part.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    return made


def pixels(images: Tensor) -> Tensor:
    """Normalize uint8 (N, 3, S, S) images in float32, then convert them to float64."""
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    channels = [(images[:, c].float() / 255 - mean[c]) / std[c] for c in range(3)]
    return torch.stack(channels, dim=1).double()


def class_weights(net: Network) -> Tensor:
    """Return the normalized class means of the memory bank, or the normalized learned weights."""
    head = net.classifier
    if hasattr(head, "labels"):
        sums = [head.features[head.labels == k].sum(0) for k in range(head.classes)]
        return torch.stack(sums) / torch.stack(sums).norm(dim=1, keepdim=True).clamp_min(1e-12)
    return head.weight / head.weight.norm(dim=1, keepdim=True)


def reference_step(net: Network, crops: list[Tensor], labels: Tensor, rate: float, velocity: dict) -> float:
    """Run one step of the method on `net`, in place, and return the loss."""
    z = net.projector(torch.cat([net.encoder(crop) for crop in crops]))
    logits = z / z.norm(dim=1, keepdim=True) @ class_weights(net).T / 0.1
    repeated = torch.cat([labels] * (len(logits) // len(labels)))
    loss = (logits.logsumexp(1) - logits[torch.arange(len(logits)), repeated]).mean()
    loss.backward()
    with torch.no_grad():
        if hasattr(net, "momentum_encoder"):
            for slow, fast in ((net.momentum_encoder, net.encoder), (net.momentum_projector, net.projector)):
                for p, q in zip(slow.parameters(), fast.parameters(), strict=True):
                    p.copy_(0.999 * p + 0.001 * q)
            bank, count = net.classifier, len(labels)
            rows = torch.arange(int(bank.pointer), min(int(bank.pointer) + count, len(bank.labels)))
            bank.features[rows] = net.momentum_projector(net.momentum_encoder(crops[0][:count]))[: len(rows)]
            bank.labels[rows] = labels[: len(rows)]
            bank.pointer.fill_(0 if rows[-1] + 1 == len(bank.labels) else int(rows[-1]) + 1)
        for name, p in net.named_parameters():
            if p.grad is not None:
                velocity[name] = 0.9 * velocity.get(name, 0) + p.grad + (1e-4 * p if p.ndim > 1 else 0)
                p.sub_(rate * velocity[name])
                p.grad = None
    return loss.item()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["trex_plain", "trex_class_means"])
def test_trainer_steps_follow_the_equations(tiny, method: str) -> None:
    """From image bytes to weights. The steps include the warm-up, the peak, the cosine and the memory bank's end."""
    bank = ["method.memory_bank_size=40"] if method == "trex_class_means" else []
    config = tiny("steps", *bank, *FIVE_STEPS, method=method)
    ours = float64_trainer(config)
    net = copy.deepcopy(ours.state.model)
    start = copy.deepcopy(dict(net.named_parameters()))
    velocity: dict[str, Tensor] = {}
    batches = ours.batches.starting_at(0, 0)
    peak, total, warmup = 0.8 * 16 / 256, 2 * (224 // 16), 3
    for step in range(STEPS):
        batch = next(batches)
        cosine = 1e-6 + (peak - 1e-6) * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
        rate = peak * step / (warmup - 1) if step < warmup else cosine
        expected = reference_step(net, [pixels(crop) for crop in batch.crops], batch.labels, rate, velocity)
        ours.step(batch)
        assert ours.meter.take()["loss"] == pytest.approx(expected, rel=1e-8)
    ours.close()
    assert_near(ours.state.model.state_dict(), net.state_dict(), start)


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor], start: dict[str, Tensor]) -> None:
    """Check that each tensor is equal up to a millionth of its change since the start, and integers exactly."""
    for key, value in expected.items():
        if value.is_floating_point():
            change = (value - start[key]).norm() if key in start else value.norm()
            assert (found[key] - value).norm() <= 1e-6 * change + 1e-9, key
        else:
            assert torch.equal(found[key], value), key


@pytest.mark.slow
def test_learning_rate_is_set_at_every_step_and_peaks_at_the_last_warmup_step(tiny, saved_run) -> None:
    config = tiny("rates", "train.log_every=1", "optimizer.lr=0.2", "train.epochs=3", "crops.local_count=0")
    run = saved_run(config)
    finish(run, config)
    rates = [line.values["lr"] for line in MetricsLine.read_lines(run.metrics).strict() if line.phase == "train"]
    steps, peak = 224 // 32, 0.2 * 32 / 256
    rest = 2 * steps
    expected = [peak * i / (steps - 1) for i in range(steps)]
    expected += [1e-6 + (peak - 1e-6) * (1 + math.cos(math.pi * i / rest)) / 2 for i in range(rest)]
    assert rates == pytest.approx(expected, rel=1e-9)


def _steps(ranks: Ranks, config: Config) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    ours = float64_trainer(config, ranks)
    start = copy.deepcopy(ours.state.model.state_dict())
    batches = ours.batches.starting_at(0, 0)
    for _ in range(STEPS):
        ours.step(next(batches))
    ours.close()
    return start, ours.state.model.state_dict()


@pytest.mark.slow
def test_two_ranks_train_like_one_with_the_whole_batch(on_ranks, tiny) -> None:
    """Compares weights, statistics and memory bank after the steps of a complete trainer with DDP."""
    config = tiny("ranks", "method.memory_bank_size=40", *FIVE_STEPS)
    [(start, alone)] = on_ranks(1, _steps, config)
    for _, together in on_ranks(2, _steps, config):
        assert_near(together, alone, start)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Nine cuts of two real photographs per split, of several shapes, in class folders."""
    for split in ("train", "val"):
        for i in range(9):
            image = Image.fromarray(load_sample_images().images[i % 2])
            folder = tmp_path / "sets/photos" / split / f"class{i % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            image.crop((30 * i, 20 * i, 30 * i + 260 + 10 * i, 20 * i + 240)).save(folder / f"{i}.png")
    return tmp_path / "sets"


def _validation(ranks: Ranks, config: Config) -> dict[str, float]:
    ours = trainer(config, ranks)
    ours.validate()
    ours.close()
    return MetricsLine.read_lines(RunDir.of(config).metrics).strict()[-1].values if ranks.is_main else {}


@pytest.mark.slow
@pytest.mark.parametrize(("size", "resize", "world"), [(224, 256, 1), (112, 128, 1), (112, 128, 2)])
def test_validation_is_resize_256_and_center_crop_224_of_each_image_once(
    on_ranks, tiny, photos: Path, size: int, resize: int, world: int
) -> None:
    """Other sizes are resized in the same proportion. Nine images cannot be divided evenly among two ranks."""
    config = tiny("validated", "data.dataset=photos", f"data.folders.photos={photos}/photos",
                  f"crops.global_size={size}", "train.batch_size=4")  # fmt: skip
    found = on_ranks(world, _validation, config)[0]
    ours = trainer(config)
    net = ours.state.model.double().eval()
    transform = T.Compose([T.Resize(resize), T.CenterCrop(size), T.PILToTensor()])  # bilinear, torchvision's default
    split = load_split("photos", "test", config.data)
    images = torch.stack([transform(Image.open(split.folder / split.name(i))) for i in range(len(split))])
    with torch.no_grad():
        z = net.projector(net.encoder(pixels(images)))
        logits = z / z.norm(dim=1, keepdim=True) @ class_weights(net).T / 0.1
    labels = torch.from_numpy(split.labels)
    loss = (logits.logsumexp(1) - logits[torch.arange(9), labels]).mean()
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert found["top1"] == pytest.approx(100 * (logits.argmax(1) == labels).double().mean().item())
    assert found["top5"] == 100
    assert ours.state.model.training is False
