"""Writes Slurm's configuration files of a sandbox."""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox_files.templates import fill, template

NODES = ("n1", "n2", "n3", "n4")
GPUS_PER_NODE = 4


@dataclass(frozen=True)
class Options:
    """Options of a sandbox: properties that differ between clusters and affect how jobs are interrupted."""

    grace: int = 30  #: seconds from a preemption's signal until the job is killed
    user_signal: bool = False  #: whether a preemption sends the signal of `--signal` instead of SIGTERM
    accounting: bool = True
    max_array_size: int = 1001  #: 0: no job arrays
    kill_wait: int = 10  #: seconds from SIGTERM to SIGKILL after scancel and at the time limit
    node_timeout: int = 10  #: seconds until a node that does not respond is set to DOWN
    memory_limits: bool = False  #: whether a job that uses more memory than it asked for is killed
    beside: str = ""  #: folder of a sandbox whose database this one shares, as a second cluster of one site

    @property
    def cluster(self) -> str:
        """The cluster's name."""
        return "second" if self.beside else "sandbox"


def write_configuration(
    folder: Path, options: Options, address: str, ports: Sequence[int], database: tuple[str, int], version: str
) -> None:
    """Write slurm.conf and the files beside it.

    Args:
        folder: the sandbox's folder, with its subfolder `gpus`.
        options: the options of the sandbox.
        address: the address on which the daemons listen.
        ports: those of slurmctld, slurmdbd and the nodes.
        database: address and port of the slurmdbd to use.
        version: what `slurmctld -V` prints.
    """
    host, user = socket.gethostname().split(".")[0], getpass.getuser()
    for number in range(GPUS_PER_NODE):
        (folder / "gpus" / f"gpu{number}").symlink_to("/dev/null")  # slurmd accepts only character devices
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpus/gpu[0-{GPUS_PER_NODE - 1}]\n")
    newer = _is_2302_or_newer(version)
    if newer:  # it would need cgroups otherwise; older versions do not know this line and end
        (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    user_signal = "PreemptParameters=send" if newer else "SlurmctldParameters=preempt_send"
    values = {
        "host": host, "user": user, "folder": str(folder), "address": address, "grace": str(options.grace),
        "controller_port": str(ports[0]), "database_address": database[0], "database_port": str(database[1]),
        "cluster": options.cluster,
        "max_array_size": str(options.max_array_size), "kill_wait": str(options.kill_wait),
        "node_timeout": str(options.node_timeout), "gpus": str(GPUS_PER_NODE),
        "consumable": "CR_Core_Memory" if options.memory_limits else "CR_Core",
        "memory": template("memory_limits.conf" if options.memory_limits else "no_memory_limits.conf"),
        "user_signal": f"{user_signal}_user_signal\n" if options.user_signal else "",
        "accounting": template("accounting.conf" if options.accounting else "no_accounting.conf"),
        "nodes": "".join(
            f"NodeName={node} NodeHostname={host} NodeAddr={address} Port={port} CPUs=8 RealMemory=20000 "
            f"Gres=gpu:{GPUS_PER_NODE} State=UNKNOWN\n"
            for node, port in zip(NODES, ports[2:], strict=True)
        ),
    }  # fmt: skip
    (folder / "slurm.conf").write_text(fill(template("slurm.conf"), values), encoding="utf-8")
    of_database = folder / "slurmdbd.conf"
    of_database.touch(mode=0o600)
    of_database.write_text(fill(template("slurmdbd.conf"), values), encoding="utf-8")


def _is_2302_or_newer(version: str) -> bool:
    """Whether it is Slurm 23.02 or newer, which renamed an option and can do without cgroups."""
    found = re.search(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) >= (23, 2)
