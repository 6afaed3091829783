"""Finds runs by name, wherever they were started: here, in the default folder of runs, or in any other folder.

`~/.local/state/trex/runs`, or $XDG_STATE_HOME/trex/runs, has the path of each run folder that this user has started,
one per line. A folder that was deleted or moved is passed over.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from jobs import environment
from jobs.plan.defaults import defaults
from trex.config import Config
from trex.errors import UserError
from trex.files import write_text
from trex.records.run_dir import RunDir

HERE = Path(Config().runs)  #: the folder in which runs are found by name first
_MOST_LINES = 5000  #: of the file, before those of deleted runs are left out


def folders() -> list[Path]:
    """Return the folders whose runs are found by name: the one below the working folder, and the default one."""
    runs = defaults().runs
    return [HERE, *([Path(runs)] if runs else [])]


def remember(run: RunDir) -> None:
    """Note that a run was started. Where the home folder cannot be written, it is found by its path only."""
    path, line = environment.state_home(), str(run.root)
    if path is None or "\n" in line:
        return
    path = path / "trex" / "runs"
    with contextlib.suppress(OSError):
        known = _lines(path)
        if line in known:
            return
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if len(known) >= _MOST_LINES:
            kept = [one for one in known if Path(one, "config.yaml").is_file()]
            write_text(path, "".join(f"{one}\n" for one in kept[-_MOST_LINES // 2 :]))
        with path.open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(f"{line}\n")


def remembered() -> list[Path]:
    """Return the folders of all runs that were started and still exist, sorted by name."""
    path = environment.state_home()
    found = _lines(path / "trex" / "runs") if path is not None else []
    existing = {Path(one) for one in found if os.access(Path(one, "config.yaml"), os.F_OK)}
    return sorted(existing, key=lambda one: (one.name, str(one)))


def places(name: str) -> Iterator[Path]:
    """Yield the folders that a run of that name can be in, in the order of the search.

    Raises:
        UserError: if it is in none of the folders of runs, and was started under that name in several other ones.
    """
    yield from (folder / name for folder in folders())
    others = [path for path in remembered() if path.name == name]
    if len(others) > 1:
        listed = "\n".join(f"  {path}" for path in others)
        raise UserError(f"{name}: expected one run of that name, found {len(others)}; give the folder:\n{listed}")
    yield from others


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    return [line for line in text.split("\n") if line.startswith("/")]
