"""Writes what each process of a job runs on its node before the toolkit's code: set-up lines, launcher, Python."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from jobs.backend import Finding
from jobs.plan.cluster import Cluster
from trex.config.paths import expanded
from trex.errors import ExitCode
from trex.records.run_dir import RunDir

#: What srun starts in each process. The texts are in the batch script, which Slurm copies at the submission, so nobody
#: can replace them. submitit's own command would execute a pickle from the job folder. srun resolves a name without a
#: folder on the host, which may be wrong in a container of pyxis.
COMMAND = '/bin/bash -c "$trex_start" trex "$trex_note" "$trex_check" "${trex_specs[${SLURM_ARRAY_TASK_ID:-0}]}"'

_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")


def command(cluster: Cluster) -> str:
    """Return what follows the toolkit's own options of srun: those of the cluster file, and the command."""
    options = (
        f"--{key}" if value == "yes" else f"--{key}={quoted(value)}" for key, value in cluster.process_options.items()
    )
    return " ".join([*options, COMMAND])


def lines(run: RunDir, cluster: Cluster, code: str) -> list[str]:
    """Return the lines of the shell that each process begins with.

    Python checks the code of the run (jobs/slurm/verify.py), then becomes `jobs.slurm.process`. -P: without it, Python
    would import from the working folder.

    Args:
        run: the run.
        cluster: the cluster file.
        code: the digest of the code.
    """
    launcher = shlex.split(cluster.launcher)
    expected = (
        "the program of `launcher` in the cluster file. Its folder can be added to PATH in setup_process"
        if launcher
        else "the Python that submitted the job, on a file system that the nodes read, or `python` in the cluster file"
    )
    words = " ".join(map(quoted, [*launcher, cluster.python or sys.executable]))
    own = f'-I -S -c "$trex_check" {shlex.quote(str(run.root))} {code} "$trex_note" "$PWD"'
    return [
        f"trex_code_interrupted={int(ExitCode.INTERRUPTED)}",
        *Path(__file__).with_name("start.sh").read_text(encoding="utf-8").rstrip().splitlines(),
        *(f'trex_doing={shlex.quote(line)}; eval "$trex_doing"; trex_line $?' for line in cluster.setup_process),
        "umask g-w,o-w",
        "trex_doing='launcher and python of the cluster file'",
        f'trex_become {shlex.quote(expected)} {words} {own} -P -u -m jobs.slurm.process "$trex_work"',
    ]


def findings(cluster: Cluster) -> Iterator[Finding]:
    """Say whether the launcher is installed on this machine. That it is not is only a warning: the nodes may differ."""
    for program in shlex.split(cluster.launcher)[:1]:
        with contextlib.suppress(ValueError):  # a variable that is set on the nodes only
            found = shutil.which(expanded(program))
            missing = f"warning: {program} was not found on this machine; the nodes need it"
            yield Finding(True, f"slurm: launcher: {found or missing}")


def heredoc(variable: str, name: str, text: list[str]) -> list[str]:
    """Return the lines of a shell script that store `text`, which comes from the file `name`, in a variable."""
    return [f"IFS= read -r -d '' {variable} << 'end of {name}'", *text, f"end of {name}"]


def quoted(word: str) -> str:
    """Quote a word for the shell. `$NAME`, `${NAME}` and a leading `~/` stand for what they are on the node."""
    parts = _VARIABLE.split("${HOME}" + word[1:] if word.startswith("~/") else word)
    if len(parts) == 1:
        return shlex.quote(word)
    texts, names = parts[::3], [one or other for one, other in zip(parts[1::3], parts[2::3], strict=True)]
    done = [shlex.quote(texts[0]) if texts[0] else ""]
    for name, text in zip(names, texts[1:], strict=True):
        done += [f'"${{{name}:?is not set on this node}}"', shlex.quote(text) if text else ""]
    return "".join(done)
