"""Measures the training on this machine's GPUs, and writes benchmarks/gpu.md.

    python -m tools.bench.gpu        # make bench-gpu

Without a GPU it says so, writes nothing, and ends with code 3.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore
from torch.multiprocessing.spawn import spawn

from tools.bench.page import ROOT, machine
from tools.bench.photographs import photographs
from tools.bench.step import RATE, batch_of, ours_of
from trex.config import Config, load
from trex.distributed import Ranks
from trex.files import write_text
from trex.machine import device_name, library_versions
from trex.records.events import CheckpointSaved, read_events
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir
from trex.training.network import set_up_device

NO_GPU = 3  #: exit code
RECIPES = ("trex_star", "trex", "trex1", "trex3")
IMAGES = 64
#: What differs from the recipe t-ReX* in fp16 with deterministic kernels.
VARIANTS = (
    ("`train.deterministic=false`", ("train.deterministic=false",)),
    ("`train.compile=true`", ("train.compile=true",)),
    ("both", ("train.deterministic=false", "train.compile=true")),
    ("`train.precision=off`", ("train.precision=off",)),
    ("`train.precision=off`, `train.tf32=off`", ("train.precision=off", "train.tf32=off")),
    ("256 images, `train.accumulate=4`", ("train.batch_size=256", "train.accumulate=4")),
)


@dataclass(frozen=True)
class Figure:
    """One line of the page."""

    what: str
    value: str
    note: str = ""


def main() -> int:
    """Measure and write the page. Returns the exit code."""
    if not torch.cuda.is_available():
        print("not run: no CUDA device", file=sys.stderr)
        return NO_GPU
    subprocess.run([sys.executable, str(ROOT / "tools/prerequisites.py"), "--photographs"], check=True)
    device, figures = torch.device("cuda", 0), []
    for measure in (
        nccl, lambda: recipes(device), lambda: variants(device), lambda: commands(photo_run(), os.cpu_count() or 1)
    ):  # fmt: skip
        figures += list(attempted(measure))
    path = ROOT / "benchmarks" / "gpu.md"
    write_text(path, page(device_name(device), library_versions(device), figures))
    print(f"==> {path.relative_to(ROOT)}")
    return 0


def attempted(measure: Callable[[], Iterator[Figure]]) -> Iterator[Figure]:
    """Yield and print the figures of one part. If it fails, the page says so, and the other parts are measured."""
    try:
        for figure in measure():
            print(f"{figure.what}: {figure.value} {figure.note}", flush=True)
            yield figure
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        failed = Figure("a measurement failed", "–", str(error).strip().splitlines()[0][:200])
        print(f"{failed.what}: {failed.note}", file=sys.stderr, flush=True)
        yield failed


def page(card: str, versions: dict[str, str], figures: list[Figure]) -> str:
    """The page as Markdown."""
    lines = [
        "# Training on a GPU", "", "Written by `make bench-gpu`.", "",
        f"{card}; {', '.join(f'{name} {version}' for name, version in versions.items())}.", machine(), "",
        "| what | measured | note |", "|---|---|---|",
    ]  # fmt: skip
    lines += [f"| {figure.what} | {figure.value} | {figure.note} |" for figure in figures]
    return "\n".join(lines) + "\n"


# ---- several GPUs


def nccl() -> Iterator[Figure]:
    """Sum numbers over all GPUs of this machine, one process per GPU."""
    world = torch.cuda.device_count()
    with tempfile.TemporaryDirectory() as folder:
        spawn(_sum_over_gpus, (world, folder), nprocs=world)  # type: ignore[no-untyped-call]
        milliseconds = json.loads((Path(folder) / "ms").read_text(encoding="utf-8"))
    yield Figure(f"NCCL all-reduce of 100 MB over {world} GPU(s)", f"{milliseconds:.2f} ms", "sums are right")


def _sum_over_gpus(rank: int, world: int, folder: str) -> None:
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    store = FileStore(f"{folder}/store", world)
    dist.init_process_group("nccl", store=store, rank=rank, world_size=world, device_id=device)
    numbers = torch.full((25_000_000,), float(rank), device=device)
    dist.all_reduce(numbers)
    assert bool((numbers == sum(range(world))).all()), "NCCL computed a wrong sum"
    milliseconds = 1e3 * median_seconds(lambda: dist.all_reduce(numbers), device)
    dist.destroy_process_group()
    if rank == 0:
        (Path(folder) / "ms").write_text(json.dumps(milliseconds), encoding="utf-8")


# ---- the step


def recipes(device: torch.device) -> Iterator[Figure]:
    """The step of each recipe with 64 images, in fp16 and bf16."""
    for recipe in RECIPES:
        for precision in ("fp16", "bf16"):
            yield step(f"step of {recipe}, {precision}", recipe, device, f"train.precision={precision}")


def variants(device: torch.device) -> Iterator[Figure]:
    """The step of t-ReX* with other settings."""
    for what, settings in VARIANTS:
        yield step(f"step of {RECIPES[0]}, fp16; {what}", RECIPES[0], device, *settings)


def step(what: str, recipe: str, device: torch.device, *settings: str) -> Figure:
    """Measure the step of a recipe on one device, without a loader, and its peak memory."""
    config = load(ROOT / f"configs/{recipe}.yaml", Config, [f"train.batch_size={IMAGES}", *settings])
    ranks = Ranks(device=device)
    set_up_device(ranks, config)
    images = config.train.batch_size
    batch = batch_of(config, images)
    if device.type == "cuda":
        batch = batch._replace(crops=tuple(crop.pin_memory() for crop in batch.crops), labels=batch.labels.pin_memory())
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    _, taken = ours_of(config, ranks)
    seconds = median_seconds(lambda: taken.run(batch, RATE, lambda: None), device)
    memory = f"peak memory {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB" if device.type == "cuda" else ""
    return Figure(what, f"{1e3 * seconds:.1f} ms, {images / seconds:.0f} images/s", memory)


def median_seconds(call: Callable[[], object], device: torch.device, warm_up: int = 5, groups: int = 5) -> float:
    """Return the median time of a call, of groups of four calls that are queued without waiting for the device."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(warm_up):
        call()
    taken = []
    for _ in range(groups):
        wait()
        began = time.perf_counter()
        for _ in range(4):
            call()
        wait()
        taken.append((time.perf_counter() - began) / 4)
    return statistics.median(taken)


# ---- whole commands: loader, checkpoint, extraction, probes


def photo_run() -> list[str]:
    """Settings of two epochs of t-ReX* on 2,560 photographs, with a checkpoint every 20 steps."""
    folder = Path(tempfile.mkdtemp(prefix="trex-bench-"))
    lay_out(photographs(_made(folder / "originals")), folder / "photos", copies=22)
    return [
        f"data.folders.photos={folder / 'photos'}", "data.dataset=photos", f"runs={folder / 'runs'}", "name=bench",
        "train.epochs=2", f"train.batch_size={IMAGES}", "optimizer.warmup_epochs=1", "train.log_every=10",
        "checkpoint.every_steps=20", "extract.datasets=[photos]", "probe.seeds=1",
    ]  # fmt: skip


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def lay_out(files: list[Path], folder: Path, copies: int) -> None:
    """Link images into `train/` and `val/` with four classes, `copies` times for `train/`."""
    for split, number in (("train", copies), ("val", 1)):
        for place, file in enumerate(files):
            of_class = folder / split / f"class{place % 4}"
            of_class.mkdir(parents=True, exist_ok=True)
            for copy in range(number):
                (of_class / f"{file.stem}-{copy}{file.suffix}").symlink_to(file)


def commands(settings: list[str], workers: int, recipe: str = "trex_star") -> Iterator[Figure]:
    """Train, extract and probe with the commands that users run, and read the figures from the run folder."""
    config = load(ROOT / f"configs/{recipe}.yaml", Config, settings)
    run = RunDir.of(config)
    _trex("train", str(ROOT / f"configs/{recipe}.yaml"), "--processes", "1", *settings, f"data.workers={workers}")
    lines = [line for line in MetricsLine.read_lines(run.metrics).strict() if line.phase == "train"]
    rates = [line.values["images_per_second"] for line in lines[1:]]
    yield Figure(f"training with its loader, {workers} workers", f"{statistics.median(rates):.0f} images/s",
                 "median of the log lines; below the rate of the step alone, the loader is the limit")  # fmt: skip
    saves = [event.seconds for event in read_events(run.events).strict() if isinstance(event, CheckpointSaved)]
    yield Figure(
        "checkpoint", f"{statistics.median(saves):.2f} s", f"median of {len(saves)}, as events.jsonl records it"
    )
    for stage in ("extract", "probe"):
        began = time.perf_counter()
        _trex(stage, str(run.root))
        yield Figure(f"trex {stage}", f"{time.perf_counter() - began:.1f} s", "the whole command, with its start")


def _trex(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *arguments[:2], "--cluster", "local", *arguments[2:]],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"trex {arguments[0]} ended with {done.returncode}: {(done.stderr or done.stdout)[-150:]}")


if __name__ == "__main__":
    sys.exit(main())
