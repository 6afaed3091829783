"""Prints docs/example.sbatch: the batch script of a training, as a verbose dry run prints it, with example paths."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMAND = ("train", str(ROOT / "configs" / "trex_star.yaml"), "--cluster", "example", "--dry-run", "--verbose")
HOME = "/home/me"


def example() -> str:
    """The command's output, independent of this machine's settings and paths."""
    with tempfile.TemporaryDirectory() as folder:
        here = str(Path(folder).resolve())
        kept = {name: value for name, value in os.environ.items() if name == "PYTHONPATH"}
        environment = {**kept, "HOME": here, "PATH": here}  # without Slurm and without a cluster's SBATCH_ variables
        words = [sys.executable, "-m", "jobs.cli", *COMMAND]
        done = subprocess.run(words, cwd=here, env=environment, capture_output=True, text=True, check=True)
        text = done.stdout.replace(sys.executable, f"{HOME}/.venv/bin/python").replace(here, HOME)
    digest = "0123456789abcdef" * 4  # that of the code changes with each edit
    text = re.sub(r"\b[0-9a-f]{64}\b", digest, text)
    return re.sub(r"/code/[0-9a-f]{12}\b", f"/code/{digest[:12]}", text).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(example())
