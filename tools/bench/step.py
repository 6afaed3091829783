"""The training step of t-ReX* with ResNet50 on a CPU: forward, backward, momentum networks, update."""

from __future__ import annotations

import ctypes
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._distributed_c10d import FileStore
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from tools.bench.alternate import Times, alternate
from tools.bench.page import Row, Topic
from trex.config import Config, load
from trex.distributed import Ranks, joined
from trex.images.preprocessing import MEAN, STD
from trex.loading.training import Batch
from trex.training.gradients import SharedGradients
from trex.training.host_memory import keep_freed_memory
from trex.training.network import Network, build_network
from trex.training.scaler import CountingScaler
from trex.training.state import Position, TrainingState, make_optimizer
from trex.training.step import Step

IMAGES, CLASSES = 4, 1000
RATE = 0.1
GMAC_PER_IMAGE = 34.4  #: ResNet50 has 4.1 for 224 pixels, 0.75 for 96: 4 x 4.1 + 8 x 3 x 0.75

ABOUT = f"""\
A step of `configs/trex_star.yaml` (ResNet50, one 224 crop and eight 96 crops per image), with {IMAGES} images if not
said otherwise. Times are seconds of CPU. Usual: weights and crops in PyTorch's default format, one `lerp_` per
parameter of the momentum networks, `torch.optim.SGD` with its default implementation, `loss.item()` in every step, and
glibc's default handling of freed memory. Ours: `Step` of `trex/training/step.py`, as the training calls it. Both start
with the same weights and get the same bytes."""


def config_of(*settings: str) -> Config:
    """The recipe t-ReX* with small batches."""
    return load(Path("configs/trex_star.yaml"), Config, [f"train.batch_size={IMAGES}", *settings])


def batch_of(config: Config, images: int = IMAGES) -> Batch:
    """A batch of random bytes."""
    generator = torch.Generator().manual_seed(0)
    crops, sizes = config.crops, []
    sizes.append((crops.global_count * images, 3, crops.global_size, crops.global_size))
    if crops.local_count:
        sizes.append((crops.local_count * images, 3, crops.local_size, crops.local_size))
    made = tuple(torch.randint(256, size, dtype=torch.uint8, generator=generator) for size in sizes)
    return Batch(made, torch.randint(CLASSES, (images,), generator=generator), 0, 0)


class Usual:
    """The step as it is usually written."""

    def __init__(self, config: Config, amp: torch.dtype | None) -> None:
        self.network = build_network(config, CLASSES, Ranks(), seed=0).to(memory_format=torch.contiguous_format)
        decayed: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for parameter in self.network.parameters():
            if parameter.requires_grad:
                (decayed if parameter.ndim > 1 else others).append(parameter)
        groups = [{"params": decayed, "weight_decay": 1e-4}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.SGD(groups, lr=RATE, momentum=0.9)
        self.amp = amp

    def __call__(self, batch: Batch) -> float:
        """Run one step and return its loss."""
        net, bank = self.network, self.network.classifier
        mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
        crops = [(crop.float() / 255 - mean) / std for crop in batch.crops]
        with torch.autocast("cpu", dtype=self.amp, enabled=self.amp is not None):
            loss = net(crops, batch.labels).loss
            with torch.no_grad():
                momentum_update(net)
                bank.store(net.momentum_projector(net.momentum_encoder(crops[0])), batch.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.item())


def momentum_update(net: Network) -> None:
    """Update the momentum networks, one parameter after the other."""
    for slow, fast in ((net.momentum_encoder, net.encoder), (net.momentum_projector, net.projector)):
        for p, q in zip(slow.parameters(), fast.parameters(), strict=True):
            p.lerp_(q, 0.001)


def ours_of(config: Config, ranks: Ranks | None = None) -> tuple[TrainingState, Step]:
    """The step of the training."""
    ranks = ranks or Ranks()
    network = build_network(config, CLASSES, ranks, seed=0)
    scaler = CountingScaler(ranks.device.type, config.train.precision == "fp16")
    if config.train.compile:
        network.compile_encoders()
    state = TrainingState(network, make_optimizer(network, config.optimizer), scaler, Position())
    return state, Step(state, config.train, ranks)


def give_freed_memory_back() -> None:
    """glibc's defaults, as they are in a process that has freed large tensors: its thresholds have grown by then."""
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in ((-4, 65536), (-3, 32 * 2**20), (-1, 64 * 2**20)):  # mmaps, size for a mmap, trim
        mallopt(parameter, value)


def steps(precision: str, images: int, rounds: int) -> tuple[Times, float]:
    """Times of both steps, and how much the losses differ at most, relative to the loss."""
    config = config_of(f"train.precision={'off' if precision == 'fp32' else precision}")
    batch, (_, step) = batch_of(config, images), ours_of(config)
    usual = Usual(config, step.amp)
    losses: dict[bool, list[float | Tensor]] = {True: [], False: []}

    def run_usual(_: int) -> None:
        give_freed_memory_back()
        losses[False].append(usual(batch))

    def run_ours(_: int) -> None:
        keep_freed_memory()
        losses[True].append(step.run(batch, RATE, lambda: None).loss)  # the trainer reads it when it logs

    times = alternate(run_usual, run_ours, rounds)
    first = float(losses[False][0]), float(losses[True][0])
    return times, abs(first[0] - first[1]) / first[0]


def seconds(times: Times) -> tuple[str, str, str]:
    """The columns of a row."""
    unit, factor = ("s", 1.0) if times.usual_median > 0.5 else ("ms", 1e3)
    return f"{times.usual_median * factor:.3g} {unit}", f"{times.ours_median * factor:.3g} {unit}", times.spread


def rows() -> Iterator[Row]:
    """All comparisons."""
    for precision, images, rounds, goal in (("fp32", 4, 3, "≥ 1.25"), ("fp32", 8, 2, "≥ 1.25"), ("bf16", 4, 2, "≥ 1")):
        times, difference = steps(precision, images, rounds)
        yield Row(
            f"step, {precision}, {images} images", *seconds(times), goal, f"first losses differ by {difference:.0e}"
        )
    keep_freed_memory()
    yield from parts_of_a_step()
    yield from in_parts()
    yield between_ranks()


def parts_of_a_step() -> Iterator[Row]:
    """The momentum update and the optimizer alone."""
    config = config_of("train.precision=off")
    state, _ = ours_of(config)
    net, usual = state.model, Usual(config, None)
    slow = [*net.momentum_encoder.parameters(), *net.momentum_projector.parameters()]
    fast = [*net.encoder.parameters(), *net.projector.parameters()]
    with torch.no_grad():
        times = alternate(
            lambda _: momentum_update(usual.network), lambda _: torch._foreach_lerp_(slow, fast, 0.001), 20
        )
    yield Row(f"momentum update of {len(slow)} tensors", *seconds(times), quality="same formula")
    for model in (net, usual.network):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.full_like(parameter, 1e-3)
    times = alternate(lambda _: usual.optimizer.step(), lambda _: state.optimizer.step(), 20)
    differ = max(
        float((p - q).detach().abs().max()) for p, q in zip(net.parameters(), usual.network.parameters(), strict=True)
    )
    yield Row(
        "SGD, for-loop and fused", *seconds(times), quality=f"weights differ by at most {differ:.0e} after 21 updates"
    )


def in_parts() -> Iterator[Row]:
    """What `train.accumulate` costs."""
    config = config_of("train.precision=off")
    batch = batch_of(config)
    (_, whole), (_, parted) = ours_of(config), ours_of(config_of("train.precision=off", "train.accumulate=2"))
    times = alternate(lambda _: whole.run(batch, RATE, _nothing), lambda _: parted.run(batch, RATE, _nothing), 3)
    yield Row("batch at once, and in 2 parts (`train.accumulate=2`)", *seconds(times),
              quality="same gradient apart from batch norm (tests/training/test_step.py)")  # fmt: skip


def _nothing() -> None:
    pass


# ---- two ranks


def between_ranks() -> Row:
    """DistributedDataParallel with a graph search in every step, against `SharedGradients`, on two gloo ranks."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_on_rank, (folder,), nprocs=2)  # type: ignore[no-untyped-call]
        usual, ours, search = torch.load(f"{folder}/times.pt")
    times = Times(tuple(usual), tuple(ours))
    return Row(
        "2 ranks, crops of 32 and 16 pixels: DDP with a graph search, and our buckets",
        *seconds(times), quality=f"the search itself takes {1e3 * statistics.median(search):.2f} ms of CPU per step",
    )  # fmt: skip


def _on_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = FileStore(f"{folder}/store", 2)
    with joined(rank, 2, torch.device("cpu"), store) as ranks:
        found = _times(ranks)
    if rank == 0:
        torch.save(found, f"{folder}/times.pt")


def _times(ranks: Ranks) -> tuple[list[float], list[float], list[float]]:
    keep_freed_memory()
    config = config_of("crops.global_size=32", "crops.local_size=16")
    batch = batch_of(config, 2)
    crops, search = [crop.float() / 255 for crop in batch.crops], []
    wrapped = DistributedDataParallel(_Loss(config, ranks), find_unused_parameters=True, gradient_as_bucket_view=True)
    after: Callable[[Any], Any] = wrapped._post_forward

    def timed(output: Any) -> Any:
        began = time.process_time()
        result = after(output)
        search.append(time.process_time() - began)
        return result

    setattr(wrapped, "_post_forward", timed)  # noqa: B010 - it replaces a method
    ours = _Loss(config, ranks)
    shared = SharedGradients([p for p in ours.parameters() if p.requires_grad], ranks.world)

    def of_ddp(_: int) -> None:
        wrapped.zero_grad(set_to_none=True)
        wrapped(crops, batch.labels).backward()

    def of_ours(_: int) -> None:
        shared.clear()
        loss = ours(crops, batch.labels)
        shared.begin()
        loss.backward()
        shared.finish()

    times = alternate(of_ddp, of_ours, 8)
    return list(times.usual), list(times.ours), search


class _Loss(nn.Module):
    """The loss of a network, as DDP needs it."""

    def __init__(self, config: Config, ranks: Ranks) -> None:
        super().__init__()
        self.network = build_network(config, CLASSES, ranks, seed=0)

    def forward(self, crops: list[Tensor], labels: Tensor) -> Tensor:
        loss: Tensor = self.network(crops, labels).loss
        return loss


def notes() -> str:
    """What limits the step."""
    matrix = torch.randn(2048, 2048)
    rate = 2 * 2048**3 / 1e9 / _best(lambda: matrix @ matrix)
    step = 2 * GMAC_PER_IMAGE * IMAGES
    return (
        f"A float32 product of 2048 x 2048 matrices runs at {rate:.0f} GFLOP/s on this core. A step's convolutions, "
        f"backward pass and momentum encoder included, are {step:.0f} GFLOP: {step / rate:.1f} s at that rate. "
        f"`train.deterministic` changes nothing on a CPU; its cost on a GPU is measured by `make bench-gpu`."
    )


def _best(call: Callable[[], object]) -> float:
    taken = []
    for _ in range(4):
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return min(taken)


TOPIC = Topic("The training step on a CPU", ABOUT, rows, notes, cores=2)
