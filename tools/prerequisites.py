"""Installs the Debian packages that the tests need (Slurm, images, a compiler), or says in one line which are missing.

    python3 tools/prerequisites.py
    python3 tools/prerequisites.py --photographs    # what `make bench` needs instead

Does nothing if all packages are installed. It installs missing ones as root, or with sudo if sudo needs no password.
Otherwise it installs nothing and ends with exit code 2.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from sandbox_files.packages import PACKAGES, SYSTEM_PATH, missing_packages

#: Packages of which one file is enough: real images (tools/real_images.py), and a compiler (tests/refusing.py).
FILES = {
    "dataset-fashion-mnist": Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz"),
    "gcc": Path("/usr/bin/gcc"),
    "libc6-dev": Path("/usr/include/stdlib.h"),
}
#: The photographs of the benchmarks (tools/bench/photographs.py).
PHOTOGRAPHS = {
    "mate-backgrounds": Path("/usr/share/backgrounds/mate/nature"),
    "plasma-workspace-wallpapers": Path("/usr/share/wallpapers/BytheWater"),
}
INSTALL = ("apt-get", "install", "--yes", "--no-install-recommends")


def main() -> int:
    """Install missing packages if that needs no password. Returns the exit code."""
    if sys.argv[1:] == ["--photographs"]:
        purpose, missing, files = "benchmarks", [], PHOTOGRAPHS
    else:
        purpose, missing, files = "tests", missing_packages(PACKAGES, os.environ["PATH"] + SYSTEM_PATH), FILES
    missing += [name for name, file in files.items() if not file.exists()]
    if not missing:
        return 0
    root = _becoming_root()
    if root is None:
        return _give_up(missing, purpose)
    print(f"==> installing Debian packages for the {purpose}: {' '.join(missing)}", flush=True)
    apt = [*root, "env", "DEBIAN_FRONTEND=noninteractive"]
    for words in (("apt-get", "update", "-qq"), (*INSTALL, "-qq", *missing)):
        if subprocess.run([*apt, *words], stdout=subprocess.DEVNULL, check=False).returncode:
            return _give_up(missing, purpose)
    return 0


def _becoming_root() -> list[str] | None:
    """The words that must precede a command to run it as root. None if that needs a password or there is no apt."""
    if shutil.which("apt-get") is None:
        return None
    if os.getuid() == 0:
        return []
    sudo = ["sudo", "--non-interactive"]
    if shutil.which("sudo") is None or subprocess.run([*sudo, "true"], capture_output=True, check=False).returncode:
        return None
    return sudo


def _give_up(missing: list[str], purpose: str) -> int:
    command = " ".join(("sudo", *INSTALL, *missing))
    print(
        f"the {purpose} need Debian packages that are missing: {', '.join(missing)}. To install them on Debian or "
        f"Ubuntu: {command}",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    sys.exit(main())
