"""Starts other programs: always from a list of arguments, never a shell string, and with a time limit when waiting."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Process = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Completed:
    """How a program ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.code == 0


def run(
    words: Sequence[str], timeout: float = 30.0, env: Mapping[str, str] | None = None, stdin: str | None = None
) -> Completed:
    """Run a program to its end.

    The code is 127 if the program is not installed and 124 if it takes more than `timeout` seconds, as in a shell.
    """
    try:
        done = subprocess.run(
            list(words), capture_output=True, text=True, timeout=timeout, env=env, input=stdin, check=False
        )
    except FileNotFoundError:
        return Completed(127, "", f"{words[0]}: not found")
    except subprocess.TimeoutExpired:
        return Completed(124, "", f"{words[0]}: no answer within {timeout:g} s")
    return Completed(done.returncode, done.stdout, done.stderr)


def start(words: Sequence[str], env: Mapping[str, str], log: Path) -> Process:
    """Start a program whose output is appended to `log`. It inherits the blocked signals of this process."""
    with log.open("ab") as file:
        return subprocess.Popen(
            list(words), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=dict(env)
        )
