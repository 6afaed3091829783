"""What the job of a stage asks Slurm for, in Slurm's terms."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.plan.cluster import StageResources
from jobs.plan.spec import Stage
from jobs.slurm.limits import seconds
from jobs.slurm.rules import formats
from jobs.slurm.variables import sbatch_defaults


@dataclass(frozen=True)
class Request:
    """What each job of a stage asks for. None: Slurm's default."""

    stage: Stage
    jobs: int  #: how many jobs `trex run` submits for the stage; each element of an array is one
    partitions: tuple[str, ...]  #: Slurm takes the first that is free; empty: the default partition
    account: str | None
    qos: str | None
    reservation: str | None
    constraint: str | None
    time: str
    nodes: int
    cpus: int  #: per node
    gpus: int  #: per node
    gpu_type: str  #: "": any
    memory: float | None  #: per node, MB

    @classmethod
    def of(cls, stage: Stage, resources: StageResources, jobs: int) -> Request:
        """Return the request of a stage: the cluster file's, and what SBATCH_ variables say where that says nothing."""
        defaults, options = sbatch_defaults(), resources.options
        partition = resources.partition or defaults.get("partition", "")
        typed = formats.gpus(options.get("gres", "")) or formats.gpus(f"gpu:{options.get('gpus-per-node', '')}")
        cpus = resources.tasks * resources.cpus_per_task
        memory = resources.memory_gb * 1024.0 if resources.memory_gb else None
        if "mem" in options:
            memory = formats.megabytes(options["mem"]) or None
        elif (per_cpu := formats.megabytes(options.get("mem-per-cpu", ""))) is not None:
            memory = per_cpu * cpus
        return cls(
            stage, jobs, tuple(name for name in partition.split(",") if name),
            account=_lower(resources.account or defaults.get("account")),
            qos=_lower(resources.qos or defaults.get("qos")),
            reservation=options.get("reservation") or defaults.get("reservation"),
            constraint=resources.constraint, time=resources.time, nodes=resources.nodes, cpus=cpus,
            gpus=resources.gpus_per_node, gpu_type=next((kind for kind in typed if kind), ""), memory=memory,
        )  # fmt: skip

    @property
    def seconds(self) -> int:
        """The time limit in seconds."""
        return seconds(self.time)

    @property
    def tres(self) -> dict[str, float]:
        """What one job takes, as Slurm's accounting counts it; memory in MB."""
        found = {"cpu": self.nodes * self.cpus, "node": self.nodes, "gres/gpu": self.nodes * self.gpus}
        if self.gpu_type:
            found[f"gres/gpu:{self.gpu_type}"] = self.nodes * self.gpus
        if self.memory is not None:
            found["mem"] = self.nodes * int(self.memory)
        return {name: float(amount) for name, amount in found.items()}


def _lower(name: str | None) -> str | None:
    """Return a name as Slurm's accounting has it."""
    return name.lower() if name else None
