"""The folder of the sockets through which loader processes hand over their batches.

The name of a socket may have 107 bytes. multiprocessing puts its sockets into a folder of its own below TMPDIR, which
clusters often set to a long path below the job's scratch folder.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from multiprocessing import process, util
from pathlib import Path

from trex.errors import UserError

_MOST_BYTES = 107  #: of a socket's name on Linux, without the zero byte at the end
_OWN_BYTES = len("/trex-abcdefgh/listener-abcdefgh")
_SHORT = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - the folder below it is new, and only the user can enter it

_made: Path | None = None


def use_short_folder() -> None:
    """Create the folder for this process's sockets, which only the user can enter, where names are short enough.

    Raises:
        UserError: if there is no such place.
    """
    global _made  # noqa: PLW0603 - multiprocessing has one such folder per process too
    if _made is not None and _made.is_dir():
        return
    usual = tempfile.gettempdir()
    for place in (usual, *_SHORT):
        if len(os.fsencode(place)) + _OWN_BYTES <= _MOST_BYTES and os.access(place, os.W_OK | os.X_OK):
            _made = Path(tempfile.mkdtemp(prefix="trex-", dir=place))
            process.current_process()._config["tempdir"] = str(_made)  # type: ignore[attr-defined]
            util.Finalize(None, remove_folder, exitpriority=-100)
            return
    raise UserError(
        f"TMPDIR is {usual}, of {len(os.fsencode(usual))} bytes: the loader processes need a folder with at most "
        f"{_MOST_BYTES - _OWN_BYTES} bytes for their sockets, and {', '.join(_SHORT)} cannot be written either. Set "
        f"TMPDIR to a shorter folder, or data.workers=0"
    )


def remove_folder() -> None:
    """Delete the folder: in the process that created it, or in one of its loader processes if that was killed."""
    folder = process.current_process()._config.get("tempdir")  # type: ignore[attr-defined]
    if folder and Path(folder).name.startswith("trex-"):
        shutil.rmtree(folder, ignore_errors=True)
