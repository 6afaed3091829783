"""Starts other programs: always from a list of arguments, never a shell string, and with a time limit when waiting."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Process = subprocess.Popen[bytes]
TimeoutExpired = subprocess.TimeoutExpired


@dataclass(frozen=True)
class Completed:
    """How a program ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Whether the program ended with code 0."""
        return self.code == 0


def run(
    words: Sequence[str], timeout: float = 30.0, env: Mapping[str, str] | None = None, stdin: str | None = None
) -> Completed:
    """Run a program to its end.

    The code is, as in a shell, 127 if the program is not installed, 126 if it cannot be executed and 124 if it takes
    more than `timeout` seconds. Bytes that are not UTF-8 are replaced in its output.
    """
    try:
        done = subprocess.run(
            list(words), capture_output=True, encoding="utf-8", errors="replace", timeout=timeout, env=env, input=stdin,
            check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return Completed(127, "", f"{words[0]}: not found")
    except OSError as error:
        return Completed(126, "", f"{words[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Completed(124, "", f"{words[0]}: no answer within {timeout:g} s")
    return Completed(done.returncode, done.stdout, done.stderr)


def start(words: Sequence[str], env: Mapping[str, str], log: Path) -> Process:
    """Start a program whose output is appended to `log`. It inherits the blocked signals of this process."""
    with log.open("ab") as file:
        return subprocess.Popen(
            list(words), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=dict(env)
        )
