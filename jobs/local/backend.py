"""The back end that `kind: local` in a cluster file selects."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from jobs import environment, programs
from jobs.backend import Answers, Backend, Finding, QueuedJob
from jobs.local.run import run_here
from jobs.plan.cluster import Cluster
from jobs.plan.memory import require_memory
from jobs.plan.requirements import require_startable
from jobs.plan.runs import save_config
from jobs.plan.spec import STAGES, Stage, TaskSpec
from jobs.plan.stages import require_gpu
from jobs.worker.lock import process_start
from jobs.worker.place import Task
from trex.config import Config
from trex.config.loader import to_yaml
from trex.errors import ExitCode, RunLocked, UserError
from trex.files import write_text
from trex.records.lock_owner import LockOwner
from trex.records.run_dir import RunDir
from trex.wording import counted

#: Why a job has no GPU here, and what to do.
_NO_GPU = "this machine has no GPU: use a cluster with --cluster"


class Local:
    """Runs jobs on this machine, one after the other, without a queue."""

    title = "this machine"
    has_queue = False

    def is_available(self) -> bool:
        """Return True: this machine is always available."""
        return True

    def problems(self, cluster: Cluster) -> Iterator[tuple[str, str]]:
        """Yield nothing: this machine uses only the folders and the number of processes of a cluster file."""
        return iter(())

    def check(self, run: RunDir, config: Config, cluster: Cluster) -> Iterator[Finding]:
        """Check the GPUs of the stages, and whether the largest probe fits into this machine's memory."""
        for stage in STAGES:
            try:
                require_gpu(config, stage, _gpus, _NO_GPU)
            except UserError as error:
                yield Finding(False, str(error))
        try:
            largest = require_memory(config, cluster)
        except UserError:
            return  # `trex check` reports this for every cluster
        yield Finding.of(lambda: _memory(largest))

    def launch(
        self, run: RunDir, config: Config, cluster: Cluster, specs: Sequence[TaskSpec], processes: int | None,
        dry_run: bool, verbose: bool = False,
    ) -> ExitCode:  # fmt: skip
        """Run one stage after the other. Stops at the first stage that fails, with its exit code."""
        counts = [_processes(cluster, spec.stage, processes) for spec in specs]
        for spec in specs:
            require_gpu(config, spec.stage, _gpus, _NO_GPU)
        if dry_run:
            for spec, count in zip(specs, counts, strict=True):
                items = f" of {', '.join(item.name for item in spec.items)}" if spec.items else ""
                words = counted(count, "process")
                sys.stdout.write(f"would run on this machine: {spec.stage}{items} with {words}, in {run.root}\n")
            return ExitCode.DONE
        if not run.config.exists():
            world = next((count for spec, count in zip(specs, counts, strict=True) if spec.stage == "train"), 1)
            require_startable(run, config, specs, world)
        save_config(run, config)
        write_text(run.local_cluster, to_yaml(cluster))
        for spec, count in zip(specs, counts, strict=True):
            code = run_here(replace(spec, staging=cluster.stage or ""), processes=count, gpus=_gpus())
            if code:
                return code
        return ExitCode.DONE

    def ask(self, runs: Sequence[RunDir]) -> Answers:
        """Return nothing, because there is no queue: the runs' own files contain everything."""
        return Answers({}, {})

    def queued(self, run: RunDir) -> list[QueuedJob]:
        """Return an empty list, because there is no queue."""
        return []

    def cancel(self, run: RunDir) -> list[str]:
        """Return an empty list: a job on this machine ends with the command that runs it."""
        return []

    def owner_is_alive(self, owner: LockOwner, task: Task) -> bool:
        """Return whether the process that took a lock still runs on this machine."""
        if owner.host != socket.gethostname():
            raise RunLocked(f"held by process {owner.pid} on {owner.host}, which cannot be checked from here")
        for _ in range(20):  # a process that was just killed takes a moment to end
            if owner.process_start is None or process_start(owner.pid) != owner.process_start:
                return False
            time.sleep(0.1)
        return True

    def addresses(self, node: str) -> list[str]:
        """Return an empty list: a job on this machine has one node."""
        return []

    def leave_job(self) -> None:
        """Do nothing: each process sets all of its variables itself."""


def _memory(largest: float) -> str:
    """Compare the gigabytes that the largest probe needs with the memory of this machine."""
    here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    if largest > here:
        raise UserError(
            f"memory: a probe takes up to {largest:.1f} GB, but this machine has {here:.1f} GB: set "
            f"probe.memory_gb={0.7 * here:.0f}, which is slower"
        )
    return f"memory: this machine has {here:.1f} GB"


def _processes(cluster: Cluster, stage: Stage, asked: int | None) -> int:
    """Return the number of processes of a stage: as requested, as in the cluster file, or one per GPU.

    Probes and the report use one process, with threads.
    """
    if stage not in ("train", "extract"):
        return 1
    gpus = _gpus()
    count = asked or cluster.resources(stage).tasks_per_node or max(gpus, 1)
    if count > gpus > 0:
        raise UserError(
            f"{count} processes for {counted(gpus, 'GPU')}: expected one GPU per process. Use --processes "
            f"{gpus}, or compute on the CPU: CUDA_VISIBLE_DEVICES= trex …"
        )
    return count


def _gpus() -> int:
    """Return how many GPUs may be used on this machine.

    These are the GPUs in CUDA_VISIBLE_DEVICES, or else the ones that nvidia-smi lists. If nvidia-smi is missing or does
    not answer, the device files are counted. Importing PyTorch to ask it would take seconds.
    """
    if (chosen := environment.chosen_gpus()) is not None:
        return len(chosen)
    answer = programs.run(["nvidia-smi", "--list-gpus"], timeout=20)
    if answer.code in (124, 126, 127):  # no answer in time, or no such program that can be executed
        return len(list(Path("/dev").glob("nvidia[0-9]*")))
    return sum(line.startswith("GPU ") for line in answer.stdout.splitlines()) if answer.ok else 0


BACKEND: Backend = Local()
