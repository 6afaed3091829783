"""`trex new NAME FOLDER`: writes a recipe for a folder of images."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from jobs.plan import lookup
from jobs.plan.lookup import path_of
from trex.config import Config, load
from trex.config.schema import NAME
from trex.errors import ExitCode, UserError
from trex.files import write_text


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `trex new`."""
    parser = commands.add_parser(
        "new",
        help="write a recipe for a folder of your own images",
        description="Write configs/NAME.yaml, a recipe for a folder of images with train/ and val/ and one folder per "
        "class. Number and size of the images decide the batch, the epochs and the crops; comments say why.",
    )
    parser.add_argument("name", metavar="NAME", help="name of the recipe and of its run")
    parser.add_argument("folder", metavar="FOLDER", help="folder with train/ and val/")
    parser.set_defaults(handler=lambda args: _new(args.name, path_of(args.folder)))


def _new(name: str, folder: Path) -> ExitCode:
    from jobs.plan.own_images import Images, recipe

    if not re.fullmatch(NAME, name):
        raise UserError(
            f"{name!r}: expected a name of at most 64 letters, digits, '.', '_' and '-', which begins with a letter or "
            f"digit"
        )
    target = lookup.HERE / f"{name}.yaml"
    if target.exists():
        raise UserError(f"{target} exists already: choose another name, or delete it")
    text = recipe(name, Images.of(folder.resolve()))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, text)
    load(target, Config)
    sys.stdout.write(text)
    sys.stderr.write(f"trex: wrote {target}; next: trex check {name}\n")
    return ExitCode.DONE
