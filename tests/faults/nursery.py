"""Starts processes in a moment, by forking from one that has imported everything, and kills them at a chosen moment.

Run as a program, it reads one request per line and answers with the exit code of the process, or minus the signal. The
processes do exactly what a job's process does. They also know `resnet_small`, which trains in a second.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

#: Audit events of operations that change files or folders. `open` counts only if it is for writing.
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.link", "os.symlink"}


@dataclass(frozen=True)
class Request:
    """A process to start."""

    run: str  #: run folder
    log: str  #: file for what it prints
    die_at: int = -1  #: before which file operation it kills itself, counted from 0; -1: never
    kill_after: float = -1.0  #: after how many seconds it is killed; -1: never
    writes: bool = False  #: whether it writes one checkpoint after the other instead of training


class Nursery:
    """The program, as seen by a test."""

    def __enter__(self) -> Nursery:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, request: Request) -> int:
        """Start a process and wait for its end. Returns its exit code, or minus the signal that ended it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(request)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the nursery has ended"
        return int(answer)


def _exit_before(operation: int) -> Callable[[str, tuple[Any, ...]], None]:
    """Return an audit hook that ends the process, as SIGKILL would, before the operation with this number."""
    left = [operation]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in _CHANGES:
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)

    return hook


def _child(request: Request) -> None:
    from jobs.backend import SITE
    from jobs.local.process import this_task
    from jobs.plan.spec import TaskSpec
    from jobs.worker import lock
    from jobs.worker.task import run_task

    handle = os.open(request.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    if request.writes:
        _write_checkpoints(Path(request.run))
    lock.SECONDS_UNTIL_WRITTEN = 0.2
    os.environ["TREX_JOB"] = f"local-{os.getpid()}"
    if request.die_at >= 0:
        sys.addaudithook(_exit_before(request.die_at))
    run_task(TaskSpec("train", request.run), this_task(), SITE)


def _write_checkpoints(folder: Path) -> None:
    """Write checkpoints until the process is killed; print the step of each as soon as it is written."""
    import torch

    from trex.training.checkpoint import Checkpoints

    checkpoints = Checkpoints(folder)
    newest = checkpoints.newest()
    checkpoints.tidy(newest)
    step = newest.manifest.step if newest else 0
    while True:
        step += 1
        position = {"epoch": 0, "step": step, "global_step": step}
        checkpoints.write({"position": position, "w": torch.full((200_000,), float(step))}, keep=2)
        os.write(1, f"{step}\n".encode())


def _register_small_encoder() -> None:
    """Add `resnet_small` to the ResNets: the first two stages with one block each, 0.7 million parameters."""
    from trex.model import resnet, sizes

    resnet._ARCHITECTURES["resnet_small"] = resnet._Architecture((1, 1), bottleneck=False)  # type: ignore[arg-type]
    layers = resnet.resnet_layers("resnet_small")
    parameters, buffers = (sum(one.nbytes for one in found) for found in (layers.parameters(), layers.buffers()))
    sizes.TORCHVISION["resnet_small"] = sizes.EncoderSize(128, parameters // 4, buffers)


def _serve() -> None:
    # Everything that a training imports and compiles. Nothing here may start a thread, which a fork would not have.
    import numpy as np

    import trex.training.trainer
    from trex.config.schema import CropsConfig
    from trex.images.crops import multi_crop

    _register_small_encoder()
    multi_crop(np.zeros((32, 32, 3), np.uint8), CropsConfig(global_size=16, local_size=8, local_count=2), 0, 0, 0)
    assert trex.training.trainer
    for line in sys.stdin:
        request = Request(**json.loads(line))
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _child(request)
                code = 0
            finally:
                os._exit(code)
        timer = threading.Timer(request.kill_after, os.kill, (child, signal.SIGKILL))
        if request.kill_after >= 0:
            timer.start()
        _, status = os.waitpid(child, 0)
        timer.cancel()
        if timer.ident is not None:
            timer.join()
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
