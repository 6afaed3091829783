"""Exit codes, and the exceptions that end a command with one of them. No other module defines an exit code."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command or a job ended.

    Slurm jobs are requeued after INTERRUPTED, and a limited number of times after LOST and if a signal killed them. The
    command line's help, docs/checkpoints.md and the batch script take numbers and meanings from here.
    """

    meaning: str

    def __new__(cls, value: int, meaning: str = "") -> ExitCode:
        """A code and its meaning, for the user."""
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    DONE = 0, "done, also when there was nothing left to do"
    FAULT = 1, "an error of the program or the machine"
    USER_ERROR = 2, "a mistake in config, data or command"
    LOCKED = 3, "a running job holds the run"
    SUPERSEDED = 4, "a later start took over the run, because this one no longer seemed to run"
    UNWRITABLE = 74, "files cannot be written: disk full, quota exceeded, read-only, or the run folder is gone"
    INTERRUPTED = 75, "stopped and saved; the same command continues"
    LOST = 76, "another process of the job, a connection between them, or a GPU was lost"
    RESUME_REFUSED = 77, "resume refused: config, data or number of processes changed"
    NO_PROGRESS = 78, "started several times without progress"


class TrexError(Exception):
    """An error whose message is for the user. It is printed without a traceback."""

    exit_code: ExitCode = ExitCode.FAULT


class MachineLost(TrexError):
    """A part of the machines of the job is lost: another process, a connection or a GPU. The message names it.

    A process that ends with this error does not know of any mistake in its own work, so the job may start again.
    """

    exit_code = ExitCode.LOST


class UserError(TrexError):
    """A mistake of the user. The message says what is wrong, where, what was expected and what to do."""

    exit_code = ExitCode.USER_ERROR


class RunLocked(TrexError):
    """Another running job works on the same run."""

    exit_code = ExitCode.LOCKED


class Superseded(TrexError):
    """A later start has taken over the run while this one did not run. It must not write anything more."""

    exit_code = ExitCode.SUPERSEDED


class Unwritable(TrexError):
    """A file system takes no more data or fails, or the run folder is gone. What was on disk before stays."""

    exit_code = ExitCode.UNWRITABLE


class Interrupted(TrexError):
    """A signal asked the job to stop. Everything is saved, and the same command continues the job."""

    exit_code = ExitCode.INTERRUPTED


class ResumeRefused(TrexError):
    """The saved state was made with another config, other data or another number of processes."""

    exit_code = ExitCode.RESUME_REFUSED


class NoProgress(TrexError):
    """The job was started several times and did not complete a single new step."""

    exit_code = ExitCode.NO_PROGRESS
