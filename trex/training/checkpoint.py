"""Full training states on disk: one writer, one reader.

checkpoints/
  epoch-0003-step-00001000/   epochs finished, steps done in the next one
    checkpoint.pt     everything the next step depends on, weights-only (`TrainingState.to_dict`)
    manifest.json     step, size and SHA-256 of checkpoint.pt; a folder without a true one is no checkpoint

A checkpoint is written into a folder of another name and renamed when all of it is on disk, so a kill at any moment
leaves the checkpoints before it whole. Reading starts at the newest and goes back past damaged ones.
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

#: What `TrainingState.to_dict` makes: tensors and plain values, with a "position".
State = dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint whose content was compared with its manifest."""

    path: Path
    manifest: Manifest

    @property
    def sha256(self) -> str:
        """Of its state, hexadecimal."""
        return self.manifest.sha256

    @property
    def finished(self) -> bool:
        """Whether the training is complete with it."""
        return self.manifest.finished

    def load(self) -> State:
        """Its whole state, tensors on the CPU. Raises UserError if it cannot be read."""
        state: State = tensor_files.load(self.path / STATE)
        return state


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, state: State, keep: int, milestone: bool = False, finished: bool = False) -> Checkpoint:
        """Write `state`, named for its "position"; afterwards remove all but the `keep` newest and the milestones.

        Args:
            state: tensors and plain values, as `TrainingState.to_dict` makes them.
            keep: how many of the newest checkpoints stay.
            milestone: whether this one stays for good.
            finished: whether the training is complete with it.

        Raises:
            OSError: if the disk did not take it; what was there before is untouched.
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
            if target.exists():  # only a damaged one: a whole one is not written again
                _set_aside(target)
            temporary.rename(target)
            sync(self.folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._prune(keep)
        return Checkpoint(target, manifest)

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint whose content is whole, or None where there is no checkpoint at all.

        Raises:
            TrexError: if there are checkpoints and every one is damaged: starting over is the user's decision.
        """
        damaged = []
        for path in checkpoint_folders(self.folder):
            try:
                return _verified(path)
            except (OSError, RecordError, _Damaged) as error:
                damaged.append(path)
                log.warning("checkpoint %s is damaged (%s): going back to the one before", path, error)
        if damaged:
            raise TrexError(
                f"{self.folder}: no checkpoint is whole ({', '.join(path.name for path in damaged)} are damaged). "
                f"To start over, move that folder away."
            )
        return None

    def read_newest(self) -> tuple[Checkpoint, State] | None:
        """The newest whole checkpoint with its state."""
        checkpoint = self.newest()
        return None if checkpoint is None else (checkpoint, checkpoint.load())

    def at(self, path: Path) -> Checkpoint:
        """The checkpoint in the folder `path`, compared with its manifest. Raises UserError if it is damaged."""
        try:
            return _verified(path)
        except (OSError, RecordError, _Damaged) as error:
            raise UserError(f"{path}: not a whole checkpoint ({error})") from error

    def remove_unfinished(self) -> None:
        """Delete what killed writers left; only while holding the run's lock."""
        for path in self.folder.glob(f"{TEMPORARY}epoch-*"):
            shutil.rmtree(path, ignore_errors=True)

    def _prune(self, keep: int) -> None:
        for path in checkpoint_folders(self.folder)[keep:]:
            try:
                if Manifest.read(path / MANIFEST).milestone:
                    continue
            except (OSError, RecordError):
                continue  # not one of ours as it stands: left for a person to look at
            shutil.rmtree(path)


class _Damaged(Exception):
    """A state is not what its manifest says."""


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
