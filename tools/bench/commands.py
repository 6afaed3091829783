"""The command line and the start of jobs: what a user waits for, and what each process of a job does before its work.

Each is a process of its own. Its seconds of CPU are counted, with those of the processes that it starts.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tools.bench.alternate import Times, alternate
from tools.bench.page import ROOT, Row, Topic
from trex.config import Config, load, to_yaml
from trex.files import write_text
from trex.records.events import AttemptStarted
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir
from trex.records.stage import STAGES
from trex.records.submission import Submission

ROUNDS = 3
RUNS, LINES = 200, 100
TREX = ("-m", "jobs.cli")

#: What a program for training that imports its libraries at the top does before it prints anything.
IMPORTS = "import torch, torchvision"
#: The numbers that `trex status` shows, without any check, by the parser of YAML that most programs use.
USUAL_STATUS = """
import json, pathlib, yaml
for run in sorted(pathlib.Path("runs").iterdir()):
    config = yaml.safe_load((run / "config.yaml").read_text())
    for name in ("metrics.jsonl", "events.jsonl", "jobs/submitted.jsonl"):
        lines = [json.loads(line) for line in (run / name).read_text().splitlines()]
    print(config["name"], lines[-1])
"""
USUAL_CHECK = f"""
{IMPORTS}
network = torchvision.models.resnet50()
images = torchvision.datasets.ImageFolder("photos/train")
print(sum(parameter.numel() for parameter in network.parameters()), len(images))
"""
USUAL_TRAINING = f"""
{IMPORTS}
from torch.utils.tensorboard import SummaryWriter
network = torchvision.models.resnet50(num_classes=1000)
optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
"""
OUR_TRAINING = """
import torch
from trex.config.schema import Config
from trex.distributed import Ranks
from trex.methods import method_named
from trex.training import trainer
config = Config(method=method_named("supervised")())
network = trainer.build_network(config, 1000, Ranks(), 0)
optimizer = trainer.make_optimizer(network, config.optimizer)
"""
USUAL_EXTRACTION = f"{IMPORTS}, h5py\nfrom torchvision import transforms\ntorchvision.models.resnet50()"
OUR_EXTRACTION = """
import trex.features.extract
from trex.model.encoder import build_encoder
build_encoder("resnet50")
"""
USUAL_PROBE = "import torch, h5py, optuna\nfrom sklearn.linear_model import LogisticRegression"
OUR_PROBE = "import trex.probing.probe, trex.probing.exact, trex.features.store"
USUAL_LOADER = f"{IMPORTS}\nfrom torchvision import datasets, transforms"
OUR_LOADER = "import trex.loading.evaluation, trex.loading.training"


def write_runs(folder: Path, count: int = RUNS) -> None:
    """Write run folders as a cluster leaves them: a config, metrics, submissions and starts of jobs, no checkpoints."""
    config = load(ROOT / "configs" / "trex_star.yaml", Config)
    for number in range(count):
        run = RunDir(folder / f"run{number:03d}")
        write_text(run.config, to_yaml(config))
        now = time.time() - 3600.0
        for step in range(LINES):
            values = {"loss": 7.0 - step / 100, "top1": step / 10, "lr": 0.1, "images_per_second": 3000.0}
            MetricsLine("train", 50 * (step + 1), step / 100, values, now + step).append(run.metrics)
        for part in range(6):
            stage, job = STAGES[part % 4], f"{1000 * number + part}"
            jobs = {"train" if stage == "train" else f"{stage}-{part}": job}
            Submission(
                now, "slurm", stage, jobs, "", f"trex {number}-{part}", f"{run.jobs}/{stage}.sh", "code-1", ""
            ).append(run.submissions)
        for restart in range(3):
            AttemptStarted(
                now + restart, "train", ("train",), f"{1000 * number}", restart, "nothing", 1, "node1", 4
            ).append(run.events)


def write_photos(folder: Path) -> None:
    """Write an image folder of ten classes with 20 images each."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for split in ("train", "val"):
        for label in range(10):
            (folder / split / f"class{label}").mkdir(parents=True)
            for number in range(20):
                Image.fromarray(pixels).save(folder / split / f"class{label}" / f"{number}.jpg")


class _Processes:
    """Runs Python in a folder, without Slurm and without the settings of the user who measures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        search = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
        self.environment = {
            **os.environ, "PATH": "/nonexistent", "HOME": str(folder), "PYTHONPATH": search,
            "XDG_CONFIG_HOME": str(folder), "XDG_STATE_HOME": str(folder),
        }  # fmt: skip

    def run(self, *words: str) -> str:
        """Run `python WORDS` and return what it printed."""
        return subprocess.run(
            [sys.executable, *words], cwd=self.folder, env=self.environment, check=True, capture_output=True, text=True
        ).stdout

    def compare(self, usual: Sequence[str], ours: Sequence[str]) -> Times:
        return alternate(lambda _: self.run(*usual), lambda _: self.run(*ours), ROUNDS, _clock)


def _clock() -> float:
    """Return the seconds of CPU of the processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _row(what: str, times: Times, goal: float | None = None, quality: str = "") -> Row:
    return Row(
        what, f"{times.usual_median:.2f} s", f"{times.ours_median:.2f} s", times.spread,
        goal=f"< {goal:g} s" if goal else "", quality=quality,
    )  # fmt: skip


def rows() -> Iterator[Row]:
    """Compare the commands, then the start of each kind of process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_runs(folder / "runs")
        write_photos(folder / "photos")
        write_text(folder / "recipe.yaml", "name: mine\ndata: {dataset: photos, folders: {photos: photos}}\n"
                   "train: {batch_size: 64}\nextract: {datasets: [photos]}\n")  # fmt: skip
        here = _Processes(folder)
        yield _row("an empty program (ours) and one that imports torch: the unit of this page",
                   here.compare(("-c", "import torch"), ("-c", "pass")))  # fmt: skip
        yield from _commands(here)
        for what, usual, ours, quality in (
            ("start of a training on one device, to its first batch: imports, ResNet-50, SGD",
             USUAL_TRAINING, OUR_TRAINING, "same initial weights and steps, bit for bit"),
            ("start of an extraction: imports, ResNet-50", USUAL_EXTRACTION, OUR_EXTRACTION,
             "same features, bit for bit"),
            ("start of a probe of the kind exact: imports", USUAL_PROBE, OUR_PROBE, ""),
            ("start of the server of loader processes: imports", USUAL_LOADER, OUR_LOADER,
             "once per rank; each loader process is a fork of it"),
        ):  # fmt: skip
            yield _row(what, here.compare(("-c", usual), ("-c", ours)), quality=quality)


def _commands(here: _Processes) -> Iterator[Row]:
    imports = ("-c", IMPORTS)
    yield _row("trex --help, and a program that imports torch and torchvision first",
               here.compare(imports, (*TREX, "--help")), 0.3)  # fmt: skip
    yield _row("trex train recipe.yaml --cluster example --dry-run, and the same program",
               here.compare(imports, (*TREX, "train", "recipe.yaml", "--cluster", "example", "--dry-run")), 0.6,
               "complete batch scripts")  # fmt: skip
    shown = here.run(*TREX, "status")
    yield _row(f"trex status over {RUNS} runs with {LINES} lines of metrics each; yaml.safe_load and json",
               here.compare(("-c", USUAL_STATUS), (*TREX, "status")), 1.0,
               f"every value is checked; {shown.count('epoch 1.0/100')} runs are shown at their epoch")  # fmt: skip
    check = (*TREX, "check", "recipe.yaml", "--cluster", "local", "runs=new")
    passed = here.run(*check).count("ok  ")
    yield _row("trex check recipe.yaml of a ResNet-50, and torchvision's, built to count its weights",
               here.compare(("-c", USUAL_CHECK), check), 2.0, f"{passed} checks passed")  # fmt: skip


TOPIC = Topic(
    "The command line, and the start of jobs",
    "Seconds of CPU of a whole process, with those of the processes that it starts; `usual` is a short program that "
    "does as much as most programs do in that place, written as most are written. Everything is in the cache of the "
    "file system. A training on several devices also imports `torch._dynamo`, because PyTorch's "
    "DistributedDataParallel does; that adds about 1.4 s to each rank (docs/adr/0039).",
    rows,
)
