"""What every process of a job runs, whatever back end started it: find the others, do the stage, record how it
ended. The exit code is the answer to whoever started it (trex/errors.py).
"""

from __future__ import annotations

import logging
import os
import platform
import re
import sys
import time
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from jobs import environment
from jobs.plan.spec import Item, Stage, TaskSpec
from jobs.worker import rendezvous
from jobs.worker.attempts import Attempt, Outcome, record_failure
from jobs.worker.place import Site, Task
from trex.errors import ExitCode, Interrupted, TrexError, UserError
from trex.interruption import StopRequest
from trex.records.environment import Environment
from trex.records.run_dir import RunDir

if TYPE_CHECKING:
    from torch import device as Device

    from trex.config import Config
    from trex.distributed import Ranks

log = logging.getLogger(__name__)

_PACKAGES = ("trex-toolkit", "torch", "torchvision", "numpy", "h5py", "submitit", "numba", "simplejpeg", "pillow")

#: How gloo, NCCL and the store put it that another process is gone.
_LOST = re.compile(
    "closed by peer|reset by peer|broken pipe|connection refused|connection was likely closed|got 0 bytes"
    "|pair is not connected|ncclRemoteError|remote process|communicator was aborted|timed? ?out",
    re.IGNORECASE,
)


def run_task(spec: TaskSpec, task: Task, site: Site) -> None:
    """Run one process's part of `spec`; ends the process with the stage's exit code unless that is 0.

    Call it in the main thread before anything heavy is imported: the stop signals are caught from here on.
    """
    stop = StopRequest().install()
    _set_up_logging(task)
    run = RunDir(Path(spec.run))
    attempt = Attempt(run, spec, task, site) if task.rank == 0 else None
    with ExitStack() as held:
        outcome = _attempt(spec, run, task, site, stop, attempt, held)
        if attempt is not None:
            attempt.end(outcome, stop.signal_name)
            if outcome.code:
                rendezvous.cancel(run, spec.keys[0], task, outcome.reason)
        elif outcome.failed and not outcome.lost_another:
            record_failure(run, spec, task, outcome)
    if outcome.code:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(
            outcome.code
        )  # not sys.exit: after a failed collective, threads of gloo or NCCL may wait for other ranks


def _attempt(
    spec: TaskSpec, run: RunDir, task: Task, site: Site, stop: StopRequest, attempt: Attempt | None, held: ExitStack
) -> Outcome:
    """Take the locks, to be released with `held`, and do the work. Logs and returns every error."""
    try:
        if attempt is not None:
            attempt.start(held)
        _work(spec, run, task, site, stop, attempt)
    except TrexError as error:
        log.log(logging.WARNING if error.exit_code == ExitCode.INTERRUPTED else logging.ERROR, "%s", error)
        return Outcome(error.exit_code, str(error))
    except Exception as error:
        return _what_failed(error, task, attempt)
    return Outcome()


def _what_failed(error: Exception, task: Task, attempt: Attempt | None) -> Outcome:
    """Log an error that is not meant for the user. Where it only says that another rank is gone, and that one recorded
    why, the outcome is that one's.
    """
    reason = f"{type(error).__name__}: {error}"
    if not (task.world > 1 and _lost_another(error)):
        log.exception("an error of the program or the machine")
        return Outcome(ExitCode.FAULT, reason)
    told = attempt.failure_of_another() if attempt is not None else None
    if told is not None:
        log.error("%s", told.reason)
        return told
    words = "another process of this job ended before its work was done; its log is beside this one"
    log.error("%s\n%s", words, reason)
    return Outcome(ExitCode.FAULT, reason, lost_another=True)


def _lost_another(error: Exception) -> bool:
    """Whether an error of a back end says no more than that another rank is not there: that one knows why."""
    if isinstance(error, OSError):  # of a file, which may time out as well
        return False
    of_the_store = any(one.__name__ in ("DistNetworkError", "DistStoreError") for one in type(error).__mro__)
    return of_the_store or bool(_LOST.search(str(error)))


def _work(spec: TaskSpec, run: RunDir, task: Task, site: Site, stop: StopRequest, attempt: Attempt | None) -> None:
    stop.check()
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(task.cpus))
    environment.update({**threads, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"})  # read when PyTorch and NumPy are imported
    environment.keep_compiled_code(run.jobs / "numba")
    from trex.config import Config, load

    config = load(run.config, Config)
    if spec.stage == "report":
        _report(run)
        return
    from trex.distributed import joined

    store = rendezvous.meet(run, spec.keys[0], task, site, stop)
    device = _device(task)
    if attempt is not None:
        _record_environment(run, task, device)
    with joined(task.rank, task.world, device, store) as ranks:
        if ranks.maximum(int(bool(stop))):
            raise Interrupted("stopped before the work began; the same command starts it")
        if spec.stage == "train":
            from trex.training.trainer import train

            train(run, config, ranks, stop)
            return
        for item in spec.items:
            _one_data_set(spec.stage, run, config, item, ranks, stop)
            if attempt is not None:
                attempt.finish_item(item)


def _one_data_set(stage: Stage, run: RunDir, config: Config, item: Item, ranks: Ranks, stop: StopRequest) -> None:
    if stage == "extract":
        from trex.features.extract import extract

        extract(run, config, item.dataset, ranks, stop)
    else:
        from trex.probing.probe import probe

        probe(run, config, item.dataset, item.seeds or range(config.probe.seeds), stop)


def _report(run: RunDir) -> None:
    from trex.reporting.write import write_report

    page = write_report([run], run.report)
    log.info("report: %s", page)


def _device(task: Task) -> Device:
    import torch

    torch.set_num_threads(task.cpus)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if 1 < count <= task.local_rank:
        raise UserError(
            f"process {task.local_rank + 1} on {task.node}, which gives this job {count} GPUs: ask for as many "
            f"processes as GPUs (tasks_per_node, gpus_per_node)"
        )
    # With one visible GPU a task, each sees its own as number 0.
    return torch.device("cuda", task.local_rank if count > 1 else 0)


def _record_environment(run: RunDir, task: Task, device: Device) -> None:
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    Environment(
        time=round(time.time(), 3),
        job=task.job_id,
        node=task.node,
        world=task.world,
        device=f"{device.type}: {name}",
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        platform=platform.platform(),
        packages={package: _version(package) for package in _PACKAGES},
    ).write(run.environment)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _set_up_logging(task: Task) -> None:
    """Readable lines from rank 0; from the others only what went wrong, with their rank."""
    name = "" if task.world == 1 or task.rank == 0 else f"rank {task.rank} "
    logging.basicConfig(
        stream=sys.stdout,
        level=logging.INFO if task.rank == 0 else logging.WARNING,
        format=f"%(asctime)s {name}%(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        force=True,
    )
    logging.captureWarnings(capture=True)
    logging.getLogger("submitit").setLevel(logging.ERROR)
