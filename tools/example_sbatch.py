"""Print docs/example.sbatch: the batch script of a training, as a dry run prints it, with neutral paths."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMAND = ("train", str(ROOT / "configs" / "trex_star.yaml"), "--cluster", "example", "--dry-run")
HOME = "/home/me"


def example() -> str:
    """What the command prints on a machine of its own."""
    with tempfile.TemporaryDirectory() as folder:
        here = str(Path(folder).resolve())
        kept = {name: value for name, value in os.environ.items() if name == "PYTHONPATH"}
        environment = {**kept, "HOME": here, "PATH": here}  # no Slurm is asked, no site's SBATCH_ variable is read
        words = [sys.executable, "-m", "jobs.cli", *COMMAND]
        done = subprocess.run(words, cwd=here, env=environment, capture_output=True, text=True, check=True)
        text = done.stdout.replace(sys.executable, f"{HOME}/.venv/bin/python").replace(here, HOME)
    return re.sub(r"/code/[0-9a-f]{12}\b", "/code/0123456789ab", text).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(example())
