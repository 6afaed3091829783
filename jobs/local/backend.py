"""This machine as a back end: what `kind: local` in a cluster file means."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from jobs import environment, programs
from jobs.backend import Answers, Backend, Finding, QueuedJob
from jobs.local.run import run_here
from jobs.plan.cluster import Cluster
from jobs.plan.memory import require_memory
from jobs.plan.runs import save_config
from jobs.plan.spec import Stage, TaskSpec
from jobs.worker.lock import process_start
from jobs.worker.place import Task
from trex.config import Config
from trex.errors import ExitCode, RunLocked, UserError
from trex.records.lock_owner import LockOwner
from trex.records.run_dir import RunDir


class Local:
    """Jobs on this machine, one after the other; there is no queue."""

    title = "this machine"

    def answers(self) -> bool:
        """Always."""
        return True

    def problems(self, cluster: Cluster) -> Iterator[tuple[str, str]]:
        """None: of a cluster file only its folder of datasets and its number of processes are used here."""
        return iter(())

    def check(self, run: RunDir, config: Config, cluster: Cluster) -> Iterator[Finding]:
        """Whether the largest probe fits into this machine's memory."""
        try:
            largest = require_memory(config, cluster)
        except UserError:
            return  # `trex check` says so for every cluster
        yield Finding.of(lambda: _memory(largest))

    def launch(
        self, run: RunDir, config: Config, cluster: Cluster, specs: Sequence[TaskSpec], processes: int | None,
        dry_run: bool,
    ) -> ExitCode:  # fmt: skip
        """Do one stage after the other; stops at the first that does not end well, with its exit code."""
        counts = [_processes(cluster, spec.stage, processes) for spec in specs]
        if dry_run:
            for spec, count in zip(specs, counts, strict=True):
                items = f" of {', '.join(item.name for item in spec.items)}" if spec.items else ""
                words = f"{count} process{'es' if count > 1 else ''}"
                sys.stdout.write(f"would run on this machine: {spec.stage}{items} with {words}, in {run.root}\n")
            return ExitCode.DONE
        save_config(run, config)
        for spec, count in zip(specs, counts, strict=True):
            code = run_here(spec, processes=count, gpus=_gpus())
            if code:
                return code
        return ExitCode.DONE

    def ask(self, runs: Sequence[RunDir]) -> Answers:
        """Nothing: the runs' own files say everything."""
        return Answers({}, {})

    def queued(self, run: RunDir) -> list[QueuedJob]:
        """None."""
        return []

    def cancel(self, run: RunDir) -> list[str]:
        """None: a job here ends with the command that runs it."""
        return []

    def owner_lives(self, owner: LockOwner, task: Task) -> bool:
        """Whether a process of this machine that took a lock is still there."""
        if owner.host != socket.gethostname():
            raise RunLocked(f"held by process {owner.pid} on {owner.host}, which cannot be asked from here")
        for _ in range(20):  # a process that was just killed takes a moment to end
            if owner.process_start is None or process_start(owner.pid) != owner.process_start:
                return False
            time.sleep(0.1)
        return True

    def addresses(self, node: str) -> list[str]:
        """None: a job here has one node."""
        return []

    def leave_job(self) -> None:
        """Nothing: each process gets all variables of its own."""


def _memory(largest: float) -> str:
    """Compare the gigabytes that the largest probe takes with what is here."""
    here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    if largest > here:
        raise UserError(
            f"memory: a probe takes up to {largest:.1f} GB, this machine has {here:.1f}: set "
            f"probe.memory_gb={0.7 * here:.0f}, which is slower"
        )
    return f"memory: this machine has {here:.1f} GB"


def _processes(cluster: Cluster, stage: Stage, asked: int | None) -> int:
    """Processes of a stage: as asked, as the cluster file says, or one per GPU. Probes use threads."""
    if stage not in ("train", "extract"):
        return 1
    gpus = _gpus()
    count = asked or cluster.stage(stage).tasks_per_node or max(gpus, 1)
    if count > gpus > 0:
        raise UserError(
            f"{count} processes for {gpus} GPU{'s' if gpus > 1 else ''}: each computes on one of its own. Ask for "
            f"--processes {gpus}, or compute on the CPU: CUDA_VISIBLE_DEVICES= trex …"
        )
    return count


def _gpus() -> int:
    """GPUs that may be used here: those of CUDA_VISIBLE_DEVICES, else those that the driver lists, or where its
    program is missing or does not answer those that have a device file. Asking PyTorch would take seconds."""
    if (chosen := environment.chosen_gpus()) is not None:
        return len(chosen)
    answer = programs.run(["nvidia-smi", "--list-gpus"], timeout=20)
    if answer.code in (124, 127):  # no answer in time, or no such program
        return len(list(Path("/dev").glob("nvidia[0-9]*")))
    return sum(line.startswith("GPU ") for line in answer.stdout.splitlines()) if answer.ok else 0


BACKEND: Backend = Local()
