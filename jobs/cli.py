"""The `trex` command: parses the arguments, calls the command's function, returns an exit code."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO, cast

from jobs.commands import check, clean, data, diff, export, logs, new, queue, report, stages, status
from jobs.plan.rights import keep_own
from trex import __version__
from trex.errors import ExitCode, TrexError
from trex.storage import is_refusal, unwritable
from trex.wording import Printable, did_you_mean

_COMMANDS = (new, stages, report, diff, check, status, logs, queue, clean, data, export)

#: Errors caused by the path that the user chose: no permission, a folder instead of a file, a link loop.
_OF_THE_PLACE = {
    errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EEXIST,
}  # fmt: skip

_SETTING = r"[A-Za-z_][A-Za-z0-9_.-]*="  #: how an argument `section.key=value` begins

#: The exit code that shells report for a program ended by Ctrl-C.
_BY_CTRL_C = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. A user's mistake is printed as one message, without a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # the encoding of the terminal may lack a character
    out, err = (cast(TextIO, Printable(stream)) for stream in (sys.stdout, sys.stderr))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    args = _parsed(arguments)
    keep_own()
    try:
        return int(args.handler(args))
    except TrexError as error:
        sys.stderr.write(f"trex: error: {error}\n")
        return int(error.exit_code)
    except BrokenPipeError:
        return int(ExitCode.DONE)
    except KeyboardInterrupt:
        return _BY_CTRL_C
    except Exception as error:
        if is_refusal(error):
            sys.stderr.write(f"trex: error: {unwritable(error, Path.cwd())} Then run the same command again.\n")
            return int(ExitCode.UNWRITABLE)
        if isinstance(error, OSError) and error.errno in _OF_THE_PLACE:
            sys.stderr.write(f"trex: error: {error.filename or 'cannot write'}: {error.strerror}\n")
            return int(ExitCode.USER_ERROR)
        traceback.print_exc()  # here, because the interpreter would print names of files as they are
        return int(ExitCode.FAULT)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments. Settings may follow options, where argparse alone would not accept them."""
    parser = _parser()
    args, left = parser.parse_known_args(arguments)
    wrong = [word for word in left if not re.match(_SETTING, word)]
    if wrong or (left and not hasattr(args, "overrides")):
        parser.error(f"not understood: {' '.join(wrong or left)}{_hint(wrong, args)}")
    if left:
        args.overrides = [*args.overrides, *left]
    return args


def _hint(wrong: Sequence[str], args: argparse.Namespace) -> str:
    """Return what to write instead of words that are not understood, as far as can be guessed."""
    if hasattr(args, "overrides"):
        settings = [word.lstrip("-") for word in wrong if word.startswith("-")]
        if settings and all(re.match(_SETTING, word) and "." in word.partition("=")[0] for word in settings):
            return f"; settings have no dashes: {' '.join(settings)}"
    return f"; trex {args.command} --help lists the arguments"


class _Parser(argparse.ArgumentParser):
    """A parser whose message about an unknown command names the nearest one."""

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            known = ", ".join(action.choices)
            nearest = did_you_mean(str(value), action.choices)
            raise argparse.ArgumentError(None, f"no command {value!r}{nearest or f'; expected {known}'}")
        super()._check_value(action, value)


def _parser() -> argparse.ArgumentParser:
    codes = "\n".join(f"  {code.value:<3} {code.meaning}" for code in ExitCode)
    parser = _Parser(
        prog="trex",
        description="Train and evaluate vision encoders: one YAML file, the same jobs on one machine and on a cluster.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"trex {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="command")
    for module in _COMMANDS:
        module.register(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
