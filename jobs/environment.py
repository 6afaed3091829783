"""The process environment: the only place that reads or writes it."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import trex

#: A process's place in a job of this machine; jobs/local.py sets them.
_JOB, _RANK, _WORLD = "TREX_JOB", "TREX_RANK", "TREX_WORLD"


@dataclass(frozen=True)
class Task:
    """This process's place in its job, from Slurm's variables or, on this machine, from our own."""

    job_id: str  #: as `scontrol requeue` wants it: `123`, or `123_4` in an array; on this machine `local-…`
    rank: int
    world: int
    local_rank: int
    node: str
    node_count: int
    restart: int
    is_slurm: bool
    cpus: int  #: CPUs of this process


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def this_task() -> Task:
    """Read this process's place; outside of a job, a job of one process."""
    env = os.environ
    if _JOB not in env and (env.get("SUBMITIT_EXECUTOR") == "slurm" or "SLURM_PROCID" in env):
        job_id = env["SLURM_JOB_ID"]
        if "SLURM_ARRAY_JOB_ID" in env:
            job_id = f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
        return Task(
            job_id=job_id,
            rank=int(env.get("SLURM_PROCID", "0")),
            world=int(env.get("SLURM_NTASKS", "1")),
            local_rank=int(env.get("SLURM_LOCALID", "0")),
            node=env.get("SLURMD_NODENAME", socket.gethostname()),
            node_count=int(env.get("SLURM_JOB_NUM_NODES", "1")),
            restart=int(env.get("SLURM_RESTART_COUNT", "0")),
            is_slurm=True,
            cpus=int(env.get("SLURM_CPUS_PER_TASK", "0")) or available_cpus(),
        )
    world, rank = int(env.get(_WORLD, "1")), int(env.get(_RANK, "0"))
    return Task(
        job_id=env.get(_JOB, f"local-{os.getpid()}"),
        rank=rank,
        world=world,
        local_rank=rank,
        node=socket.gethostname(),
        node_count=1,
        restart=0,
        is_slurm=False,
        cpus=max(available_cpus() // world, 1),
    )


def of_local_rank(job_id: str, rank: int, world: int, gpus: int) -> dict[str, str]:
    """The environment of one process of a job of this machine, which may stand inside an allocation without being part
    of it. It sees the GPUs that the user chose, else the first `gpus` of the machine."""
    place = {_JOB: job_id, _RANK: str(rank), _WORLD: str(world)}
    devices = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(gpus)))}
    return {**devices, **os.environ, **place}


def chosen_gpus() -> tuple[str, ...] | None:
    """The GPUs that CUDA_VISIBLE_DEVICES lists, by number or UUID, as CUDA reads it; None where it is not set."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return None
    names = (name.strip() for name in value.split(","))
    return tuple(itertools.takewhile(lambda name: name and not name.startswith("-"), names))


def config_home() -> Path | None:
    """The user's folder of settings, XDG_CONFIG_HOME or ~/.config; None for a user without a home."""
    chosen = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if chosen.is_absolute():  # a relative one is to be ignored, says the XDG specification
        return chosen
    try:
        return Path.home() / ".config"
    except RuntimeError:
        return None


def keep_compiled_code(folder: Path) -> None:
    """Let numba keep the functions that it compiles in `folder`, where it cannot keep them beside the installed code.

    Call it before numba is imported: where the user's home cannot be written either, the import would fail. `folder`
    must be in a folder that only the user can write, because numba runs what it finds there.
    """
    images = Path(trex.__file__).parent / "images"
    beside = images / "__pycache__"
    if not os.access(beside if beside.exists() else images, os.W_OK):
        os.environ.setdefault("NUMBA_CACHE_DIR", str(folder))


def get(name: str, default: str = "") -> str:
    """One variable's value."""
    return os.environ.get(name, default)


def variables() -> dict[str, str]:
    """All variables."""
    return dict(os.environ)


def remove(names: Iterable[str]) -> None:
    """Drop variables from this process."""
    for name in names:
        os.environ.pop(name, None)


def update(values: Mapping[str, str]) -> None:
    """Set variables for this process and the programs it starts."""
    os.environ.update(values)
