"""Full training states on disk.

checkpoints/
  epoch-0003-step-00001000/   3 epochs finished, 1000 steps done in the next one
    checkpoint.pt     everything the next step depends on (`TrainingState.to_dict`), read weights-only
    manifest.json     step, size and SHA-256 of checkpoint.pt; the folder is a checkpoint only if these match

A checkpoint is written into a temporary folder, which is renamed when everything is on disk. So a kill at any moment
leaves the earlier checkpoints intact. Reading starts with the newest checkpoint and skips damaged ones.
"""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trex import tensor_files
from trex.errors import TrexError, UserError
from trex.files import TEMPORARY, sha256, sync
from trex.records.base import RecordError
from trex.records.manifest import MANIFEST, STATE, Manifest, checkpoint_folders, checkpoint_name

log = logging.getLogger(__name__)

#: The result of `TrainingState.to_dict`: tensors and plain values, with a "position".
State = dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that matches its manifest."""

    path: Path
    manifest: Manifest

    @property
    def sha256(self) -> str:
        """SHA-256 of its state, hexadecimal."""
        return self.manifest.sha256

    @property
    def finished(self) -> bool:
        """Whether the training was complete when it was written."""
        return self.manifest.finished

    def load(self) -> State:
        """Read its complete state, with tensors on the CPU. Raises UserError if it cannot be read."""
        state: State = tensor_files.load(self.path / STATE)
        return state


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, state: State, keep: int, milestone: bool = False, finished: bool = False) -> Checkpoint:
        """Write `state` to a folder named after its position, then delete old checkpoints.

        The `keep` newest checkpoints and all milestones are kept.

        Args:
            state: tensors and plain values from `TrainingState.to_dict`.
            keep: how many of the newest checkpoints to keep.
            milestone: whether to keep this checkpoint permanently.
            finished: whether the training is complete.

        Raises:
            OSError: if it cannot be written. Existing checkpoints are unchanged.
        """
        position = state["position"]
        target = self.folder / checkpoint_name(position["epoch"], position["step"])
        temporary = self.folder / f"{TEMPORARY}{target.name}-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            tensor_files.save(state, temporary / STATE)
            size = (temporary / STATE).stat().st_size
            digest = sha256(temporary / STATE)
            manifest = Manifest(position["global_step"], size, digest, milestone, finished)
            manifest.write(temporary / MANIFEST)
            if target.exists():  # it is damaged, because an intact checkpoint is never written again
                _set_aside(target)
            temporary.rename(target)
            sync(self.folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._prune(keep)
        return Checkpoint(target, manifest)

    def newest(self) -> Checkpoint | None:
        """Return the newest checkpoint that matches its manifest, or None if there are no checkpoints.

        Raises:
            TrexError: if all checkpoints are damaged. Only the user may decide to start over.
        """
        damaged = []
        for path in checkpoint_folders(self.folder):
            try:
                return _verified(path)
            except (OSError, RecordError, _Damaged) as error:
                damaged.append(path)
                log.warning("checkpoint %s is damaged (%s): falling back to the one before it", path, error)
        if damaged:
            raise TrexError(
                f"{self.folder}: all checkpoints are damaged ({', '.join(path.name for path in damaged)}). "
                f"To start over, move this folder away."
            )
        return None

    def read_newest(self) -> tuple[Checkpoint, State] | None:
        """Return the newest intact checkpoint with its state, or None if there are no checkpoints. See `newest`."""
        checkpoint = self.newest()
        return None if checkpoint is None else (checkpoint, checkpoint.load())

    def at(self, path: Path) -> Checkpoint:
        """Return the checkpoint in the folder `path`. Raises UserError if it does not match its manifest."""
        try:
            return _verified(path)
        except (OSError, RecordError, _Damaged) as error:
            raise UserError(f"{path}: not an intact checkpoint ({error})") from error

    def remove_unfinished(self) -> None:
        """Delete unfinished checkpoints of killed processes. Call this only while holding the run's lock."""
        for path in self.folder.glob(f"{TEMPORARY}epoch-*"):
            shutil.rmtree(path, ignore_errors=True)

    def _prune(self, keep: int) -> None:
        for path in checkpoint_folders(self.folder)[keep:]:
            try:
                if Manifest.read(path / MANIFEST).milestone:
                    continue
            except (OSError, RecordError):
                continue  # without a readable manifest it may be anything, so a person must check it
            shutil.rmtree(path)


class _Damaged(Exception):
    """A state does not match its manifest."""


def _verified(path: Path) -> Checkpoint:
    manifest = Manifest.read(path / MANIFEST)
    state = path / STATE
    if state.stat().st_size != manifest.bytes:
        raise _Damaged(f"{STATE} has {state.stat().st_size} bytes, {MANIFEST} says {manifest.bytes}")
    if sha256(state) != manifest.sha256:
        raise _Damaged(f"{STATE} differs from the SHA-256 in {MANIFEST}")
    return Checkpoint(path, manifest)


def _set_aside(path: Path) -> None:
    number = 0
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(aside)
