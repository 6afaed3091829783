"""`trex clean RUN`: deletes what killed jobs and damaged disks left in a run folder, and no job reads any more."""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from jobs.backend import SITE
from jobs.local import KIND
from jobs.plan.runs import open_run
from jobs.worker.lock import locked
from jobs.worker.place import Task
from trex.errors import ExitCode
from trex.files import TEMPORARY
from trex.records.manifest import damaged_folders
from trex.records.run_dir import RunDir


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `trex clean`."""
    parser = commands.add_parser(
        "clean",
        help="delete damaged checkpoints and unfinished files of a run",
        description="Delete the damaged checkpoints of a run, which jobs have renamed to NAME.damaged-N, and the "
        "unfinished files that killed jobs left. Refused while a job of the run is running.",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, or its name")
    parser.add_argument("--dry-run", action="store_true", help="list what would be deleted and delete nothing")
    parser.set_defaults(handler=lambda args: _clean(args.run, args.dry_run))


def _clean(target: str, dry_run: bool) -> ExitCode:
    run, _ = open_run(target)
    verb = "would delete" if dry_run else "deleted"
    count = size = 0
    with ExitStack() as locks:
        if not dry_run:
            _take_all_locks(run, locks)
        for path, why in _leftovers(run):
            bytes_ = _size(path)
            if not dry_run:
                _delete(path)
            sys.stdout.write(f"{verb} {path.relative_to(run.root)}: {why}, {bytes_ / 1e6:.1f} MB\n")
            count, size = count + 1, size + bytes_
    said = f"{verb} {count} files and folders, {size / 1e6:.1f} MB" if count else "nothing to delete"
    sys.stderr.write(f"trex: {run.name}: {said}\n")
    return ExitCode.DONE


def _take_all_locks(run: RunDir, locks: ExitStack) -> None:
    """Take the training's lock and every other lock of the run, so that no job works on it in the meantime."""
    task = Task(KIND, f"clean-{os.getpid()}", 0, 1, 0, socket.gethostname(), 1, 0, 1)
    keys = {"train", *(path.name.rpartition(".lock.")[0] for path in run.jobs.glob("*.lock.*"))}
    for key in sorted(keys):
        locks.enter_context(locked(run.lock(key), task, SITE))


def _leftovers(run: RunDir) -> Iterator[tuple[Path, str]]:
    """Yield path and kind of everything that can be deleted."""
    for path in damaged_folders(run.checkpoints):
        yield path, "damaged checkpoint"
    for folder, folders, files in os.walk(run.root):
        for name in sorted(name for name in [*folders, *files] if name.startswith(TEMPORARY)):
            yield Path(folder, name), "unfinished"
        folders[:] = [name for name in folders if not name.startswith(TEMPORARY) and name != run.code.name]


def _size(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        return sum(_size(inner) for inner in path.iterdir())
    return path.lstat().st_size


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
