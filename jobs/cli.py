"""The `trex` command: reads words, calls one function, returns an exit code. Imports nothing heavy before it must."""

from __future__ import annotations

import argparse
import errno
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs import launch
from jobs.commands import check, data, export, status
from jobs.plan.runs import open_config, open_run
from jobs.slurm import chain
from trex import __version__
from trex.errors import ExitCode, TrexError, UserError
from trex.records.run_dir import RunDir

_TARGET = "a config file (configs/trex_star.yaml, or just trex_star) or a run folder (runs/trex_star, or just its name)"
_OVERRIDES = "settings on top of the config, e.g. train.epochs=50 data.root=/datasets"

_EXIT_CODES = """exit codes:
  0 done (also when there was nothing left to do)   1 a fault of the program or machine
  2 a mistake in config, data or command            3 a living job holds the run
  75 stopped, saved; the same command continues     77 refused: config, data or number of processes changed
  78 restarted several times without progress"""

#: What the place that a person chose may lack: rights, room, a folder where a file stands.
_OF_THE_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; prints a mistake of the user's as one message, without a traceback."""
    args = _parsed(arguments)
    try:
        return int(args.handler(args))
    except TrexError as error:
        sys.stderr.write(f"trex: error: {error}\n")
        return int(error.exit_code)
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.errno not in _OF_THE_PLACE:
            raise
        sys.stderr.write(f"trex: error: {error.filename or 'cannot write'}: {error.strerror}\n")
        return int(ExitCode.USER_ERROR)
    except KeyboardInterrupt:
        return 130


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The words as argparse reads them; settings may stand anywhere, also after options, where argparse leaves them."""
    parser = _parser()
    args, left = parser.parse_known_args(arguments)
    wrong = [word for word in left if not re.match(r"[A-Za-z_][A-Za-z0-9_.-]*=", word)]
    if wrong or (left and not hasattr(args, "overrides")):
        parser.error(f"not understood: {' '.join(wrong or left)}; trex {args.command} --help says what is")
    if left:
        args.overrides = [*args.overrides, *left]
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trex",
        description="Train and evaluate vision encoders: one YAML file, the same jobs on this machine and on Slurm.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"trex {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="command")
    _stage(commands, "train", "train the encoder; continues where the run stands")
    _stage(commands, "extract", "write the features of the transfer datasets to HDF5")
    _stage(commands, "probe", "fit the linear probes on the features")
    _stage(commands, "run", "the whole way: train, extract, probe, report; does what is missing")
    _report(commands)
    for module in (check, status, chain, data, export):
        module.register(commands)
    return parser


def _stage(commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, help_text: str) -> None:
    parser = commands.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
    parser.add_argument("target", metavar="CONFIG", help=_TARGET)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=_OVERRIDES)
    parser.add_argument(
        "--cluster",
        metavar="NAME",
        help="a file of configs/clusters/ by name or path; default: Slurm if sbatch answers, else this machine",
    )
    parser.add_argument("--processes", type=int, metavar="N", help="processes on this machine (default: one a GPU)")
    parser.add_argument("--dry-run", action="store_true", help="print what would run and create nothing")
    parser.set_defaults(handler=_run_stage, stage=name)


def _report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "report", help="table, CSV and web page of one run, or of several compared", description="Report on runs."
    )
    parser.add_argument("targets", nargs="+", metavar="RUN", help=_TARGET)
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="where to write (default: report/ of the first run)")
    parser.add_argument(
        "--classes",
        metavar="DATASET",
        help="also the accuracy of each class of a dataset and what it is taken for, with the confusion matrix as CSV",
    )
    parser.set_defaults(handler=_write_report)


def _run_stage(args: argparse.Namespace) -> int:
    if args.processes is not None and args.processes < 1:
        raise UserError(f"--processes is {args.processes}: expected at least 1")
    run, config = open_config(args.target, args.overrides)
    cluster = launch.choose_cluster(args.cluster)
    return launch.launch(run, config, cluster, args.stage, processes=args.processes, dry_run=args.dry_run)


def _write_report(args: argparse.Namespace) -> int:
    from trex.reporting.write import class_tables, text_table, write_report

    runs: list[RunDir] = []
    for target in args.targets:
        run, _ = open_run(target)
        if not run.config.exists():
            raise UserError(f"{run.root}: there is no such run yet")
        runs.append(run)
    folder = args.to or runs[0].report
    page = write_report(runs, folder)
    sys.stdout.write(f"{text_table(runs)}\nreport: {page}\n")
    if args.classes:
        sys.stdout.write(f"\n{class_tables(runs, args.classes, folder)}\n")
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
