"""What the processes of training and extraction need on each node: CPUs, memory, shared memory.

The memory is an estimate that is rather too low: activations on a CPU are not counted.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from jobs import environment
from jobs.plan.cluster import Cluster
from trex.config.schema import Config
from trex.errors import UserError
from trex.loading.shared_memory import PREFETCH, SHARED_MEMORY, part_bytes, require_shared_memory
from trex.model.preprocessing import preprocessing
from trex.storage import in_bytes
from trex.training.requirements import bytes_per_batch
from trex.wording import counted

#: Bytes of a process with PyTorch, and of a loader process without what all share (measured with PyTorch for CPUs).
_PROCESS, _WORKER = 0.6e9, 0.14e9
#: Bytes that a process with a GPU needs besides on the host (not measured).
_CUDA = 1.0e9


@dataclass(frozen=True)
class Needs:
    """What a stage needs on each node."""

    stage: Literal["train", "extract"]
    processes: int  #: per node
    workers: int  #: loader processes per process
    batch: int  #: bytes of what a loader process makes at once: a batch of one process, or a part of it
    state: int  #: bytes of the tensors that each process keeps on the host
    gpu: bool

    @classmethod
    def of(cls, stage: Literal["train", "extract"], config: Config, cluster: Cluster, state: int) -> Needs:
        """Return the needs of a stage.

        Args:
            stage: the stage.
            config: the config of the run.
            cluster: the cluster file.
            state: bytes of the weights, and in training of all that a checkpoint holds.
        """
        resources = cluster.resources(stage)
        if stage == "train":
            batch = bytes_per_batch(config, resources.nodes * resources.tasks)
        else:
            batch = part_bytes(config.extract.batch_size, preprocessing(config).geometry.crop)
        return cls(stage, resources.tasks, config.data.workers, batch, state, resources.gpus_per_node > 0)

    @property
    def shared(self) -> int:
        """Bytes in the shared memory of a node: the batches that the loader processes make ahead."""
        return self.processes * self.workers * PREFETCH * self.batch

    @property
    def memory(self) -> float:
        """Bytes on a node, with the shared memory and, for a GPU, the page-locked copies of as many batches."""
        process = _PROCESS + self.state + self.workers * _WORKER + (_CUDA if self.gpu else 0)
        return self.processes * process + self.shared * (2 if self.gpu else 1)

    def __str__(self) -> str:
        """Return the needs in words."""
        shared = f", of which {in_bytes(self.shared)} in {SHARED_MEMORY}" if self.workers else ""
        who = f"{counted(self.processes, 'process')} with {counted(self.workers, 'loader process')} each"
        return f"about {in_bytes(self.memory)} per node{shared} (estimated: {who})"


def require_memory_for(needs: Needs, cluster: Cluster) -> str:
    """Return what a stage needs, in words.

    Raises:
        UserError: if its jobs ask for less, or this machine has less, if the cluster file is for this machine.
    """
    stage, text = needs.stage, f"memory: {needs.stage} needs {needs}"
    if cluster.kind == "local":
        here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if needs.memory > here:
            raise UserError(f"{text}, and this machine has {here / 1e9:.1f} GB: lower data.workers or --processes")
        batch = "train.batch_size" if stage == "train" else "extract.batch_size"
        require_shared_memory(needs.batch, needs.workers, needs.processes, batch)
    asked = cluster.resources(stage).memory_gb
    if asked and needs.memory > asked * 2.0**30:
        least = int(-(-needs.memory // 2**30))
        raise UserError(f"{text}, and {stage}.memory_gb is {asked}: set it to {least} or more, or lower data.workers")
    return text


def cpu_warning(needs: Needs, cluster: Cluster) -> str:
    """Return that a process has fewer CPUs than it and its loader processes can use; "" if it has enough."""
    stage, wanted = needs.stage, needs.workers + 1
    who = f"and each process works with data.workers={needs.workers} loader processes"
    if cluster.kind == "local":
        here = environment.available_cpus()
        if here >= wanted * needs.processes:
            return ""
        return f"cpus: warning: {stage}: this machine has {counted(here, 'CPU')}, {who}: loading images may be slow"
    asked = cluster.resources(stage).cpus_per_task
    if asked >= wanted:
        return ""
    return (
        f"cpus: warning: {stage}.cpus_per_task is {asked}, {who}: they share these CPUs, and loading images may be "
        f"slow; set {stage}.cpus_per_task to {wanted} in the cluster file, or data.workers={asked - 1}"
    )
