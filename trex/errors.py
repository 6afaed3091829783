"""The ways a command can end, each with its exit code. Nothing else decides an exit code."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a process tells its caller. Only INTERRUPTED, and a bounded number of deaths by signal, are requeued."""

    DONE = 0  #: finished, also when there was nothing left to do
    FAULT = 1  #: a fault of the program or of the machine
    USER_ERROR = 2  #: a mistake in the config, the data or the command
    LOCKED = 3  #: a living job holds the run
    INTERRUPTED = 75  #: saved, and wants to go on
    RESUME_REFUSED = 77  #: the config or the world changed since the checkpoint
    NO_PROGRESS = 78  #: restarted without getting any further


class TrexError(Exception):
    """A failure whose message is meant for the user: printed as it is, without a traceback."""

    exit_code: ExitCode = ExitCode.FAULT


class UserError(TrexError):
    """A mistake of the user's: says what is wrong, where, what was expected and what to do."""

    exit_code = ExitCode.USER_ERROR


class RunLocked(TrexError):
    """Another living job works on the same run."""

    exit_code = ExitCode.LOCKED


class Interrupted(TrexError):
    """A signal asked the job to stop; everything is saved and the same command continues it."""

    exit_code = ExitCode.INTERRUPTED


class ResumeRefused(TrexError):
    """What is on disk was made by another config or another number of processes."""

    exit_code = ExitCode.RESUME_REFUSED


class NoProgress(TrexError):
    """The job was restarted several times and did not complete a single new step."""

    exit_code = ExitCode.NO_PROGRESS
