"""`trex train`, `extract`, `probe` and `run`: do the missing work of a run, where a cluster file says."""

from __future__ import annotations

import argparse

from jobs import launch
from jobs.plan.runs import open_config
from trex.errors import UserError

#: What a command can be given as CONFIG or RUN.
TARGET = "a config file (configs/trex_star.yaml, or just trex_star) or a run folder (runs/trex_star, or just its name)"

_COMMANDS = {
    "train": "train the encoder; continues from the newest checkpoint",
    "extract": "write the features of the transfer datasets to HDF5 files",
    "probe": "fit the linear probes on the features",
    "run": "run all stages: train, extract, probe, report, and what is missing at milestones; skips what is done",
}


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add one command per stage, and `trex run` for all of them."""
    for name, about in _COMMANDS.items():
        parser = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        parser.add_argument("target", metavar="CONFIG", help=TARGET)
        parser.add_argument(
            "overrides",
            nargs="*",
            metavar="KEY=VALUE",
            help="settings that override the config, e.g. train.epochs=50 data.root=/datasets",
        )
        parser.add_argument(
            "--cluster",
            metavar="NAME",
            help="a file in configs/clusters/, by name or path (default: Slurm if it answers, else this machine)",
        )
        parser.add_argument(
            "--processes", type=int, metavar="N", help="processes on this machine (default: one per GPU)"
        )
        parser.add_argument("--dry-run", action="store_true", help="print what would run and create nothing")
        parser.add_argument("--verbose", action="store_true", help="let --dry-run print every batch script completely")
        parser.set_defaults(handler=_launch, stage=name, milestones=False)
        if name == "probe":
            parser.add_argument(
                "--milestones",
                action="store_true",
                help="do only what probe.at asks for and is missing: extract and probe the milestones' checkpoints",
            )


def _launch(args: argparse.Namespace) -> int:
    if args.processes is not None and args.processes < 1:
        raise UserError(f"--processes is {args.processes}: expected at least 1")
    run, config = open_config(args.target, args.overrides)
    cluster = launch.choose_cluster(args.cluster)
    stage = launch.MILESTONES if args.milestones else args.stage
    return launch.launch(
        run, config, cluster, stage, processes=args.processes, dry_run=args.dry_run, verbose=args.verbose
    )
