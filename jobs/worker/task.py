"""What every process of a job runs, in any back end: connect to the other ranks, do the stage, record how it ended.

The exit code tells the back end how it ended (trex/errors.py).
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shlex
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jobs import environment
from jobs.plan.milestones import delete_features, is_evaluated
from jobs.plan.spec import Item, Stage, TaskSpec
from jobs.worker import rendezvous
from jobs.worker.attempts import Attempt, Outcome, logged, record_failure
from jobs.worker.lock import require_same_start
from jobs.worker.machines import machine_of, record_machines
from jobs.worker.milestones import MilestoneJobs
from jobs.worker.place import Site, Task
from trex.errors import ExitCode, MachineLost, TrexError, Unwritable, UserError
from trex.files import checked_writes
from trex.interruption import StopRequest
from trex.loading import sockets
from trex.machine import gpu_failure
from trex.records.run_dir import RunDir
from trex.storage import expect_folder, gone, is_refusal, unwritable
from trex.time_limit import TimeLimit
from trex.wording import Printable

if TYPE_CHECKING:
    from torch import device as Device

    from trex.config import Config
    from trex.distributed import Ranks
    from trex.loading.staging import Staging

log = logging.getLogger(__name__)

#: HDF5 crashes when the objects of a file that it could not write are freed. The traceback of the error refers to them.
_not_freed: list[Exception] = []


def run_task(spec: TaskSpec, task: Task, site: Site) -> None:
    """Run this process's part of `spec`. If the exit code is not 0, end the process with it.

    Call this in the main thread before any slow import, because the stop signals are caught from here on.
    """
    stop = StopRequest().install()
    stop.lead_seconds = environment.signal_lead()
    _set_up_logging(task)
    run = RunDir(Path(spec.run))
    attempt = Attempt(run, spec, task, site) if task.rank == 0 else None
    locks = ExitStack()
    if attempt is None:  # rank 0 takes the locks
        for key in spec.keys:
            locks.enter_context(checked_writes(partial(require_same_start, run.lock(key), task)))
    outcome = _attempt(spec, run, task, site, stop, attempt, locks)
    if attempt is not None:
        attempt.end(outcome, stop.signal_name)
        if outcome.code not in (ExitCode.DONE, ExitCode.SUPERSEDED, ExitCode.LOST):
            with logged(run.jobs):
                rendezvous.cancel(run, spec.keys[0], task, outcome.reason)
    elif outcome.failed:
        record_failure(run, spec, task, outcome)
        with logged(run.jobs):
            rendezvous.cancel(run, spec.keys[0], task, outcome.reason)
    with logged(run.jobs):
        locks.close()
    if outcome.code:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # the log may be on the file system that is full
                stream.flush()
        sockets.remove_folder()
        # Not sys.exit: after a failed collective, threads of gloo or NCCL may still wait for other ranks.
        os._exit(outcome.code)


def _attempt(
    spec: TaskSpec, run: RunDir, task: Task, site: Site, stop: StopRequest, attempt: Attempt | None, locks: ExitStack
) -> Outcome:
    """Take the locks, which `locks` releases, and do the work. Logs every error and returns it as the outcome."""
    again = _command(spec, site.has_queue(task))
    try:
        expect_folder(run.root)
        if attempt is not None:
            attempt.start(locks)
        _work(spec, run, task, site, stop, attempt)
    except Unwritable as error:
        return _outcome_of_refusal(error, again)
    except MachineLost as error:
        return _outcome_of_loss(error, attempt)
    except TrexError as error:
        log.log(logging.WARNING if error.exit_code == ExitCode.INTERRUPTED else logging.ERROR, "%s", error)
        return Outcome(error.exit_code, str(error))
    except Exception as error:
        if is_refusal(error):
            _not_freed.append(error)
            return _outcome_of_refusal(unwritable(error, run.root), again)
        if not run.root.is_dir():
            return _outcome_of_refusal(gone(run.root), again)
        log.exception("unexpected error in the program or the machine")
        if reason := gpu_failure(error):
            return _outcome_of_loss(MachineLost(f"{reason} on {task.node}"), attempt)
        return Outcome(ExitCode.FAULT, f"{type(error).__name__}: {error}")
    return Outcome()


def _command(spec: TaskSpec, has_queue: bool) -> str:
    """Return the command that continues a job, whatever could be recorded of it."""
    target = shlex.quote(spec.run)
    if has_queue:
        return f"trex retry {target}"
    return f"trex {spec.stage} {target}{' --milestones' if spec.of_milestones else ''} --cluster local"


def _outcome_of_refusal(error: Unwritable, again: str) -> Outcome:
    """Log that a file cannot be written, with the command that continues, and return the outcome."""
    reason = f"{error} To continue, run: {again}"
    log.error("%s", reason)
    return Outcome(error.exit_code, reason)


def _outcome_of_loss(error: MachineLost, attempt: Attempt | None) -> Outcome:
    """Log what is lost. If another rank recorded that it failed, that is the reason: return its outcome."""
    recorded = attempt.failure_of_another() if attempt is not None else None
    log.error("%s", error if recorded is None else recorded.reason)
    return recorded or Outcome(error.exit_code, str(error))


def _work(spec: TaskSpec, run: RunDir, task: Task, site: Site, stop: StopRequest, attempt: Attempt | None) -> None:
    stop.check()
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(task.cpus))
    environment.update({**threads, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"})  # read when PyTorch and NumPy are imported
    environment.keep_compiled_code(run.jobs / "numba")
    from trex.config import Config, load

    config = load(run.config, Config)
    if spec.stage == "report":
        record_machines(run, spec, task, None, [machine_of(task, None)])
        _report(run, site)
        return
    from trex.distributed import joined

    limit = TimeLimit(config.limits.start_seconds, config.limits.step_seconds)
    store = rendezvous.meet(run, spec.keys[0], task, site, stop, limit.seconds)
    device = _device(task)
    limit.watch(lambda reason: attempt.end(Outcome(ExitCode.LOST, reason), None) if attempt is not None else None)
    with joined(task.rank, task.world, device, store, limit) as ranks:
        machines = ranks.gather_texts(machine_of(task, device))
        if attempt is not None:
            record_machines(run, spec, task, device, machines)
        ranks.check(stop)
        from trex.loading.staging import Staging

        staging = Staging(spec.staging, task.node, copies=task.local_rank == 0) if spec.staging else None
        if spec.stage == "train":
            from trex.training.trainer import train

            evaluation = MilestoneJobs(run, task, site) if config.probe.at == "milestones" else None
            train(run, config, ranks, stop, evaluation, staging)
            return
        for item in spec.items:
            _one_dataset(spec.stage, run, config, item, ranks, stop, staging)
            if attempt is not None:
                attempt.finish_item(item)


def _one_dataset(
    stage: Stage, run: RunDir, config: Config, item: Item, ranks: Ranks, stop: StopRequest, staging: Staging | None
) -> None:
    if item.milestone is not None:
        _one_at_milestone(stage, run.at(item.milestone), config, item, ranks, stop, staging)
    else:
        _extract_or_probe(stage, run, config, item, ranks, stop, staging)


def _one_at_milestone(
    stage: Stage, at: RunDir, config: Config, item: Item, ranks: Ranks, stop: StopRequest, staging: Staging | None
) -> None:
    """Do the work unless the results exist, which remain when the features are deleted. The last probe deletes them."""
    whole = Item(item.dataset)
    if ranks.broadcast(is_evaluated(at, config, whole if stage == "extract" else item) if ranks.is_main else None):
        log.info("%s at epoch %d: the results exist already", item.dataset, at.milestone)
    else:
        _extract_or_probe(stage, at, config, item, ranks, stop, staging)
    if stage == "probe" and not config.probe.at_keep_features and is_evaluated(at, config, whole):
        delete_features(at, item.dataset)


def _extract_or_probe(
    stage: Stage, run: RunDir, config: Config, item: Item, ranks: Ranks, stop: StopRequest, staging: Staging | None
) -> None:
    if stage == "extract":
        from trex.features.extract import extract

        extract(run, config, item.dataset, ranks, stop, staging)
    else:
        from trex.probing.probe import probe

        probe(run, config, item.dataset, item.seeds or range(config.probe.seeds), stop, ranks.device)


def _report(run: RunDir, site: Site) -> None:
    from trex.reporting.collect import collect
    from trex.reporting.write import write_report

    page = write_report([collect(run, site.starts(run))], run.report)
    log.info("report: %s", page)


def _device(task: Task) -> Device:
    import torch

    torch.set_num_threads(task.cpus)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if 1 < count <= task.local_rank:
        raise UserError(
            f"process {task.local_rank + 1} on {task.node} has no GPU, because this job has only {count} GPUs there: "
            f"ask for as many processes as GPUs (tasks_per_node, gpus_per_node)"
        )
    # If each process sees only its own GPU, that GPU is number 0.
    return torch.device("cuda", task.local_rank if count > 1 else 0)


def _set_up_logging(task: Task) -> None:
    """Log all messages of rank 0; of the other ranks log only warnings and errors, with the rank."""
    name = "" if task.world == 1 or task.rank == 0 else f"rank {task.rank} "
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    logging.basicConfig(
        stream=Printable(sys.stdout),
        level=logging.INFO if task.rank == 0 else logging.WARNING,
        format=f"%(asctime)s {name}%(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        force=True,
    )
    logging.captureWarnings(capture=True)
    logging.raiseExceptions = False  # no traceback for each line if the log is on a full disk
