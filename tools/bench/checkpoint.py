"""Saving and resuming: how long the training waits for a save, and a start for its state."""

from __future__ import annotations

import hashlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tools.bench.alternate import Times, alternate
from tools.bench.page import ROOT, Row, Topic
from trex import tensor_files
from trex.config import Config, load
from trex.config.schema import CheckpointConfig
from trex.distributed import Ranks
from trex.files import sha256
from trex.records.run_dir import RunDir
from trex.training.checkpoint import Checkpoints, State
from trex.training.finite import FiniteChecks
from trex.training.metrics import Meter
from trex.training.network import build_network
from trex.training.saving import Saving
from trex.training.scaler import CountingScaler
from trex.training.state import Position, TrainingState, make_optimizer

RECIPE = ROOT / "jobs" / "configs" / "trex_star.yaml"
CLASSES = 1000
ROUNDS = 5
#: Rows and columns of the matrices that the training thread multiplies while a checkpoint is written.
_SIZE = 256

_notes: list[str] = []


class Run:
    """The state of a ResNet-50 and the saves of its training, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ranks = folder, Ranks()
        self.config = load(RECIPE, Config, ["name=bench", f"runs={folder}"])
        model = build_network(self.config, CLASSES, self.ranks, 0)
        optimizer = make_optimizer(model, self.config.optimizer)
        self.state = TrainingState(model, optimizer, CountingScaler("cpu", enabled=False), Position())
        self.checks = FiniteChecks(RunDir(folder), self.state, Meter(self.ranks), self.ranks)
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.saving = Saving(self.checkpoints, CheckpointConfig(keep=1), self.ranks, self._note)
        self.durable: list[float] = []  #: seconds of each writing

    def _note(self, _checkpoint: object, _reason: object, seconds: float) -> None:
        self.durable.append(seconds)

    def to_dict(self) -> State:
        """What a save writes."""
        return self.state.to_dict(self.ranks, self.config, tuple(f"class {n}" for n in range(CLASSES)), "digest")

    def step(self) -> None:
        """Count a step, and change the weights, as the training does between two saves."""
        at = self.state.position
        at.step, at.global_step = at.step + 1, at.global_step + 1

    def save(self) -> None:
        """What the training thread does for a save (`trex.training.trainer.Trainer.save`)."""
        at = self.state.position
        self.checks.before_save(is_end=False, later=True)
        self.saving.write(self.to_dict(), at, "timer", time.monotonic(), self.checks.refusal)


def tensors_of(value: Any) -> list[Tensor]:
    """Return all tensors of a state."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for item in value for tensor in tensors_of(item)] if isinstance(value, list | tuple) else []


def usual_save(state: State, path: Path) -> None:
    """Save as most people write it, with a sync."""
    with path.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def _stalls(run: Run, usual: Callable[[int], object], clock: Callable[[], float]) -> Times:
    """Time a save of this project against `usual`, in the thread that trains. No write is under way meanwhile."""

    def ours(_: int) -> None:
        run.save()

    times: dict[bool, list[float]] = {True: [], False: []}
    for number in range(ROUNDS + 2):  # the first two are not measured: new memory, and its first use again
        for is_ours in (False, True) if number % 2 else (True, False):
            run.step()
            began = clock()
            (ours if is_ours else usual)(number)
            taken = clock() - began
            run.saving.finish()
            if number > 1:
                times[is_ours].append(taken)
    return Times(tuple(times[False]), tuple(times[True]))


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _inverse(times: Times) -> str:
    """How many times as long ours takes as the other: median (smallest to largest)."""
    ratios = [1 / ratio for ratio in times.ratios]
    return f"1 / {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _save_rows(run: Run) -> Iterator[Row]:
    live = tensors_of(run.to_dict())
    buffers = [torch.empty_like(tensor).copy_(tensor) for tensor in live]
    size = sum(tensor.nbytes for tensor in live)
    usual_path = run.folder / "usual.pt"

    def copy(_: int) -> None:
        torch._foreach_copy_(buffers, live)

    for clock, name in ((time.thread_time, "CPU of the training thread"), (time.perf_counter, "wall")):
        times = _stalls(run, copy, clock)
        yield Row(
            f"stall of a save against copying its {size / 1e6:.0f} MB into reused memory, {name}",
            _ms(times.usual_median), _ms(times.ours_median), _inverse(times), "≥ 1 / 1.5",
            "the copy is all of the state; finiteness, hash, sync and rename follow in a thread",
        )  # fmt: skip
    for clock, name in ((time.thread_time, "CPU of the training thread"), (time.perf_counter, "wall")):
        times = _stalls(run, lambda _: usual_save(run.to_dict(), usual_path), clock)
        yield Row(
            f"stall of a save against torch.save and fsync, {name}",
            _ms(times.usual_median), _ms(times.ours_median), times.spread, "", _same(run, usual_path),
        )  # fmt: skip
    run.durable.clear()

    def durable(_: int) -> None:
        run.step()
        run.save()
        run.saving.finish()

    times = alternate(lambda _: usual_save(run.to_dict(), usual_path), durable, 3, time.perf_counter)
    yield Row(
        "until the save is on disk, wall", _ms(times.usual_median), _ms(times.ours_median), times.spread, "",
        "ours: also the SHA-256, a check of every tensor, two renames with their syncs",
    )  # fmt: skip
    _notes.append(_beside(run))


def _same(run: Run, usual_path: Path) -> str:
    """Whether the newest checkpoint and the file of the usual way hold the same bits."""
    newest = Checkpoints(run.checkpoints.folder).newest()
    assert newest is not None
    ours, usual = tensors_of(newest.load()["model"]), tensors_of(tensor_files.load(usual_path)["model"])
    assert all(torch.equal(one, other) for one, other in zip(ours, usual, strict=True))
    return "same bits in both files"


def _beside(run: Run) -> str:
    """Return how fast the training thread computes while a checkpoint is written, compared with otherwise."""
    left, right = torch.randn(_SIZE, _SIZE), torch.randn(_SIZE, _SIZE)

    def rate(until: Callable[[], bool]) -> float:
        count, began = 0, time.thread_time()
        while not until():
            for _ in range(10):
                left @ right
            count += 1
        return count / (time.thread_time() - began)

    rates: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(3):
        run.step()
        run.save()
        rates[True].append(rate(lambda: run.saving.request(stop=False) != 0))
        run.saving.finish()
        deadline = time.perf_counter() + 1
        rates[False].append(rate(lambda deadline=deadline: time.perf_counter() > deadline))  # type: ignore[misc]
    share = statistics.median(rates[True]) / statistics.median(rates[False])
    return (
        f"While a checkpoint is written, the training thread computes at {100 * share:.0f} % of its usual speed per "
        f"second of its CPU time (products of {_SIZE} × {_SIZE}, ten per turn of the interpreter)."
    )


def _resume_rows(run: Run) -> Iterator[Row]:
    newest = run.checkpoints.folder
    path = next(newest.glob("epoch-*/checkpoint.pt"))

    def usual(_: int) -> None:
        digest = sha256(path)
        state = torch.load(path, weights_only=True, map_location="cpu")
        run.state.restore(state, run.ranks)
        assert len(digest) == 64

    def ours(_: int) -> None:
        found = Checkpoints(newest).newest()  # as at a start: nothing is known of the file
        assert found is not None
        run.state.restore(found.load(), run.ranks)

    for clock, name in ((time.process_time, "CPU"), (time.perf_counter, "wall")):
        times = alternate(usual, ours, 3, clock)
        yield Row(
            f"resume on one rank, {name}: SHA-256, load, copy into the model", _ms(times.usual_median),
            _ms(times.ours_median), times.spread, "",
            "ours keeps the file in memory, so that it is read once, and checks its pickle first",
        )  # fmt: skip
    content = path.read_bytes()
    began = time.process_time()
    hashlib.sha256(content).hexdigest()
    hashed = time.process_time() - began
    _notes.append(
        f"The SHA-256 takes {_ms(hashed)} of the CPU time of a resume. On other ranks, a resume takes a broadcast of "
        f"{len(content) / 1e6:.0f} MB and the reading of that from memory instead of the file system."
    )


def _start_row(folder: Path) -> Iterator[Row]:
    """Train a ResNet-50 in a process of its own for a few small steps, stop it, and let it resume."""
    images = folder / "images"
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for name in ("a", "b"):
            (images / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
                    images / split / name / f"{number}.png"
                )
    common = (
        f"data.dataset=noise data.folders.noise={images} data.workers=1 runs={folder} name=start train.batch_size=2 "
        "train.precision=off train.log_every=1 crops.global_size=64 crops.local_size=32 crops.local_count=1 "
        "method.memory_bank_size=64 train.validate_every=100 train.epochs=100 checkpoint.every_minutes=0"
    )
    code = _STARTED.format(stop=2)
    ours: list[float] = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code, *common.split()], cwd=ROOT, capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        found = re.search(r"beyond imports (\S+) wall (\S+) CPU", done.stdout)
        assert found is not None, done.stdout + done.stderr
        ours.append(float(found[1]))
        _notes.append(f"Start {len(ours)} until its first step: {found[1]} s, {found[2]} s of CPU in the process.")
    yield Row(
        "start to the end of the first step, ResNet-50, beyond the imports, wall", "",
        f"{ours[0]:.1f} s new, {statistics.median(ours[1:]):.1f} s resumed", "", "< 15 s",
        "a real training, one loader process; the step itself is of two small images",
    )  # fmt: skip


#: Trains until two steps are done, and says how long the first one took from the end of the imports.
_STARTED = """
import sys, time
import torch, torchvision, torch._dynamo, torch.utils.tensorboard
import trex.training.trainer as trainer
from pathlib import Path
from trex.config import Config, load
from trex.distributed import Ranks
from trex.errors import Interrupted
from trex.interruption import StopRequest
from trex.records.run_dir import RunDir

if __name__ == "__main__":
    began, cpu = time.perf_counter(), time.process_time()
    config = load(Path("jobs/configs/trex_star.yaml"), Config, sys.argv[1:])
    run = RunDir.of(config)
    run.root.mkdir(parents=True, exist_ok=True)
    done = []
    step = trainer.Trainer.step

    def timed(self, batch):
        step(self, batch)
        done.append((time.perf_counter() - began, time.process_time() - cpu))

    trainer.Trainer.step = timed

    class Stop(StopRequest):
        def __bool__(self):
            return len(done) >= {stop}

    try:
        trainer.train(run, config, Ranks(), Stop())
    except Interrupted:
        print("beyond imports %.2f wall %.2f CPU" % done[0])
"""


def rows() -> Iterator[Row]:
    """Measure saves, resumes and starts."""
    with tempfile.TemporaryDirectory() as name:
        run = Run(Path(name))
        yield from _save_rows(run)
        yield from _resume_rows(run)
        del run
        yield from _start_row(Path(name) / "start")


TOPIC = Topic(
    "Saves and resumes",
    "The state of a ResNet-50 with the recipe trex_star and 1000 classes: weights, momentum, momentum encoder, "
    "projectors and memory. The usual way is `torch.save` in the loop with a sync, and `torch.load` with a digest of "
    "the file at a start.",
    rows,
    lambda: "\n".join(f"- {note}" for note in _notes),
    cores=2,
)
