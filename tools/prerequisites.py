"""Install what the tests need beside Python, the Debian packages of a real Slurm; or say in one line what is missing.

    python3 tools/prerequisites.py

Does nothing where all is there. Installs as root, or with sudo where that asks for no password. Else nothing is
installed, and the exit code is 2.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from sandbox import PACKAGES, SYSTEM_PATH, missing_packages

INSTALL = ("apt-get", "install", "--yes", "--no-install-recommends")


def main() -> int:
    """Install what is missing, if that is possible without asking; returns the exit code."""
    missing = missing_packages(PACKAGES, os.environ["PATH"] + SYSTEM_PATH)
    if not missing:
        return 0
    root = _becoming_root()
    if root is None:
        return _give_up(missing)
    print(f"==> installing Debian packages for the tests with a real Slurm: {' '.join(missing)}", flush=True)
    apt = [*root, "env", "DEBIAN_FRONTEND=noninteractive"]
    for words in (("apt-get", "update", "-qq"), (*INSTALL, "-qq", *missing)):
        if subprocess.run([*apt, *words], stdout=subprocess.DEVNULL, check=False).returncode:
            return _give_up(missing)
    return 0


def _becoming_root() -> list[str] | None:
    """The words before a command that root has to run; None where it would ask, or where there is no apt."""
    if shutil.which("apt-get") is None:
        return None
    if os.getuid() == 0:
        return []
    sudo = ["sudo", "--non-interactive"]
    if shutil.which("sudo") is None or subprocess.run([*sudo, "true"], capture_output=True, check=False).returncode:
        return None
    return sudo


def _give_up(missing: list[str]) -> int:
    command = " ".join(("sudo", *INSTALL, *missing))
    print(f"the tests need Slurm, missing here: {', '.join(missing)}. On Debian or Ubuntu: {command}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
