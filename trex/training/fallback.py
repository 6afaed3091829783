"""A second place for the checkpoint at a stop or at the end, if the run folder takes no more data.

<checkpoint.fallback_folder>/
  <name of the run>-<digest of its path>/   private; holds one checkpoint, in the format of trex/training/checkpoint.py

The next start moves it into the run folder, so that everything else looks for checkpoints in one place only.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
from pathlib import Path

from trex import tensor_files
from trex.config.schema import CheckpointConfig
from trex.errors import TrexError, Unwritable, UserError
from trex.records.manifest import position_of
from trex.storage import require_space, unwritable
from trex.training.checkpoint import Checkpoint, Checkpoints, State
from trex.training.requirements import require_fallback_folder

log = logging.getLogger(__name__)

_DIGITS = 12  #: of the digest in the folder's name


class Fallback:
    """The second place of one run."""

    def __init__(self, run: Path, settings: CheckpointConfig) -> None:
        """
        Args:
            run: the run folder.
            settings: with `fallback_folder`, without which there is no second place.
        """
        self._settings = settings
        name = f"{run.name}-{hashlib.sha256(os.fsencode(run)).hexdigest()[:_DIGITS]}"
        parent = settings.fallback_folder
        self.folder = None if parent is None else Path(parent).expanduser() / name

    def write(self, state: State, finished: bool) -> Checkpoint | None:
        """Write a checkpoint there, and return it; None if there is no such folder.

        Raises:
            OSError: if it cannot be written there either.
            UserError: if the folder belongs to another user.
        """
        if self.folder is None:
            return None
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self._require_private(self.folder)
        require_space(self.folder, tensor_files.size(state))
        return Checkpoints(self.folder).write(state, keep=1, finished=finished)

    def newest(self, checkpoints: Checkpoints) -> Checkpoint | None:
        """Return the newest intact checkpoint of both places, which is in the run folder then.

        Raises:
            Unwritable: if the newest one is in the second place, and the run folder still has no place for it.
            UserError: if `checkpoint.fallback_folder` does not exist, or the run's folder in it is not private.
            TrexError: if there are checkpoints and all are damaged.
        """
        saved = self._saved()
        if saved is None:
            return checkpoints.newest()
        try:
            own = checkpoints.newest()
        except TrexError as error:
            log.warning("%s", error)
            own = None
        if own is None or position_of(own.path.name) < position_of(saved.path.name):
            own = self._move(saved, checkpoints)
        assert self.folder is not None
        shutil.rmtree(self.folder, ignore_errors=True)
        return own

    def _saved(self) -> Checkpoint | None:
        """Return the checkpoint there, or None. A damaged one is left there and named in the log."""
        if self.folder is None:
            return None
        require_fallback_folder(self._settings)
        if not self.folder.exists():
            return None
        self._require_private(self.folder)
        try:
            return Checkpoints(self.folder).newest()
        except TrexError as error:
            log.warning("%s", error)
            return None

    def _move(self, saved: Checkpoint, checkpoints: Checkpoints) -> Checkpoint:
        state, keep = saved.load(), self._settings.keep
        try:
            require_space(checkpoints.folder, tensor_files.size(state))
            moved = checkpoints.write(state, keep, finished=saved.finished)
        except OSError as error:
            raise Unwritable(
                f"the newest checkpoint is {saved.path} and stays there, because it cannot be moved into the run "
                f"folder: {unwritable(error, checkpoints.folder, tensor_files.size(state))}"
            ) from error
        log.info("moved %s into the run folder", saved.path)
        return moved

    def _require_private(self, folder: Path) -> None:
        about = folder.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
            raise UserError(
                f"{folder}: is a link, belongs to another user or is open to others: expected a folder of your own "
                f"with mode 700. Move it away, or choose another checkpoint.fallback_folder"
            )
