"""Prints the batch scripts that would be submitted: the first one, and what is different in the others."""

from __future__ import annotations

import sys
from pathlib import Path

from jobs.slurm.ids import JobId
from jobs.slurm.submit import Submitter
from jobs.slurm.work import Work

#: Files whose text is in every batch script.
_FOLDED = ("verify.py", "start.sh", "requeue.sh")
#: Options that are printed for every job.
_ALWAYS = ("--array", "--dependency", "--job-name")


class DryRun:
    """Takes the place of a submission. Creates no files and submits nothing."""

    def __init__(self, submitter: Submitter, verbose: bool) -> None:
        """With `verbose`, each script is printed completely."""
        self._submitter, self._verbose = submitter, verbose
        self._first: list[str] = []  #: lines of the first script

    def send(self, work: Work) -> dict[str, JobId]:
        """Print the job of `work`. Returns the job of each key, with a made-up id."""
        text = self._submitter.text(work)
        if self._verbose:
            said = text
        elif not self._first:
            said = _folded(text)
            self._first = text.splitlines()
        else:
            said = self._difference(text.splitlines())
        sys.stdout.write(f"# ---- would be submitted: {', '.join(work.keys)}\n{said}\n\n")
        name = f"<{work.keys[0]}>"
        return {key: JobId(name, n if len(work.specs) > 1 else None) for n, key in enumerate(work.keys)}

    def _difference(self, lines: list[str]) -> str:
        """Return the options of sbatch that differ from those of the first script, and those that identify the job."""
        options = [line for line in lines if line.startswith("#SBATCH")]
        new = [line for line in options if line not in self._first or _option(line) in _ALWAYS]
        names = set(map(_option, options))
        gone = [line for line in self._first if line.startswith("#SBATCH") and _option(line) not in names]
        return "\n".join(["# as the first job, with", *new, *(f"# without {_option(line)}" for line in gone)])


def _option(line: str) -> str:
    """Return the name of the option in a line such as `#SBATCH --time=90`."""
    return line.removeprefix("#SBATCH ").partition("=")[0]


def _folded(script: str) -> str:
    """Replace the text of each file that every script contains by one line that names the file."""
    for name in _FOLDED:
        text = Path(__file__).with_name(name).read_text(encoding="utf-8").rstrip()
        count = text.count("\n") + 1
        script = script.replace(text, f"# ... {count} lines: jobs/slurm/{name}; --verbose prints them")
    return script
