"""Full training states on disk.

checkpoints/
  epoch-0003-step-00001000/   3 epochs finished, 1000 steps done in the next one
    checkpoint.pt     everything the next step depends on (`TrainingState.to_dict`), read weights-only
    manifest.json     step, size and SHA-256 of checkpoint.pt; the folder is a checkpoint only if these match
  epoch-0003-step-00000500.damaged-0/   one that did not match; it is renamed, and never read again

A checkpoint is written into a temporary folder, which is renamed when everything is on disk. It is deleted by renaming
it to a temporary name first. So a kill at any moment leaves the other checkpoints intact. Reading starts with the
newest checkpoint and skips damaged ones. A state is read from the disk once: its SHA-256 is compared in memory, and
what was compared is what is used.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trex import tensor_files
from trex.errors import TrexError, UserError
from trex.files import TEMPORARY, move, require_may_write, sha256, sync
from trex.records.base import RecordError
from trex.records.manifest import (
    MANIFEST,
    STATE,
    Manifest,
    checkpoint_folders,
    checkpoint_name,
    damaged_folders,
    damaged_name,
)
from trex.stand_ins import read_file

log = logging.getLogger(__name__)

#: The result of `TrainingState.to_dict`: tensors and plain values, with a "position".
State = dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that matches its manifest."""

    path: Path
    manifest: Manifest
    _held: list[bytes] = field(default_factory=list, repr=False, compare=False)  #: the file of its state, until used

    @property
    def sha256(self) -> str:
        """SHA-256 of its state, hexadecimal."""
        return self.manifest.sha256

    @property
    def finished(self) -> bool:
        """Whether the training was complete when it was written."""
        return self.manifest.finished

    def content(self) -> bytes:
        """Return the file of its state, whose SHA-256 was compared with the manifest.

        After `Checkpoints.newest` and `Checkpoints.at` it is in memory, until the first call of this function or of
        `load`; a later call reads it again.

        Raises:
            UserError: if it cannot be read, or no longer matches the manifest.
        """
        if self._held:
            return self._held.pop()
        try:
            return _content(self.path, self.manifest)
        except (OSError, _Damaged) as error:
            raise UserError(f"{self.path}: not an intact checkpoint ({error})") from error

    def load(self) -> State:
        """Return its complete state, with tensors on the CPU. Raises UserError if it cannot be read."""
        return parse(self.content(), self.path)


def parse(content: bytes, path: Path) -> State:
    """Return the complete state in the content of a state's file, with tensors on the CPU.

    Args:
        content: what `Checkpoint.content` has returned, on this or another rank.
        path: folder of the checkpoint, for error messages.

    Raises:
        UserError: if the content is no state.
    """
    state: State = tensor_files.load_bytes(content, path / STATE)
    return state


class Checkpoints:
    """The checkpoints of one run. Only the job that holds the run's lock may call the functions that change them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._intact: dict[str, tuple[int, ...]] = {}  #: the checkpoints that were hashed already, and their signature

    def write(self, state: State, keep: int, milestone: bool = False, finished: bool = False) -> Checkpoint:
        """Write `state` to a folder named after its position, then delete old checkpoints.

        The new checkpoint, the `keep` newest intact ones and all milestones are kept. Damaged ones do not count, and
        are renamed. As long as the folder has a damaged one, one more is kept: its disk cannot be relied on.

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
        temporary = self._temporary(target)
        temporary.mkdir(parents=True)
        try:
            size, digest = tensor_files.save_and_hash(state, temporary / STATE)
            manifest = Manifest(position["global_step"], size, digest, milestone, finished)
            manifest.write(temporary / MANIFEST)
            require_may_write()
            if target.exists():  # it is damaged, because an intact checkpoint is never written again
                _set_aside(target)
            move(temporary, target)
            sync(self.folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._intact[target.name] = _signature(target)
        try:
            self._delete_old(target, keep)
        except OSError as error:  # the new checkpoint is complete; the next save tries again
            log.warning("old checkpoints in %s could not be deleted: %s", self.folder, error)
        return Checkpoint(target, manifest)

    def newest(self) -> Checkpoint | None:
        """Return the newest checkpoint that matches its manifest, or None if there are no checkpoints.

        The file of its state is in memory until `load` or `content` is called, or the checkpoint is dropped.

        Raises:
            TrexError: if all checkpoints are damaged. Only the user may decide to start over.
        """
        damaged = damaged_folders(self.folder)
        for path in checkpoint_folders(self.folder):
            try:
                return self._read(path)
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
            return self._read(path)
        except (OSError, RecordError, _Damaged) as error:
            raise UserError(f"{path}: not an intact checkpoint ({error})") from error

    def tidy(self, newest: Checkpoint | None) -> None:
        """Delete unfinished checkpoints of killed processes, and rename damaged ones that are newer than `newest`."""
        for path in self.folder.glob(f"{TEMPORARY}epoch-*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in checkpoint_folders(self.folder):
            if newest is None or path == newest.path:
                return
            self._is_intact(path)

    def _delete_old(self, written: Path, keep: int) -> None:
        keep += bool(damaged_folders(self.folder))
        kept = 0
        for path in checkpoint_folders(self.folder):
            if path == written or (kept < keep and self._is_intact(path)):
                kept += 1
            elif kept >= keep and not _is_milestone(path):
                self._delete(path)

    def _delete(self, path: Path) -> None:
        """Delete a checkpoint. If this is interrupted, what is left no longer has the name of a checkpoint."""
        require_may_write()
        self._intact.pop(path.name, None)
        temporary = self._temporary(path)
        path.rename(temporary)
        shutil.rmtree(temporary)

    def _temporary(self, path: Path) -> Path:
        """Return the name of a folder for a checkpoint that is not complete, and make sure that it does not exist."""
        temporary = self.folder / f"{TEMPORARY}{path.name}-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        return temporary

    def _is_intact(self, path: Path) -> bool:
        """Return whether a checkpoint matches its manifest. A damaged one is renamed, so that it is not read again.

        One that the file system does not deliver at the moment is left as it is.
        """
        try:
            self._verify(path)
        except (OSError, RecordError, _Damaged) as error:
            if _is_damage(error):
                log.warning("checkpoint %s is damaged (%s): renamed to %s", path, error, _set_aside(path).name)
            return False
        return True

    def _read(self, path: Path) -> Checkpoint:
        """Return the checkpoint in `path` if it matches its manifest, with the state's file in memory.

        One that this process has compared already, and that has not changed since, is not read again.
        """
        manifest, signature = Manifest.read(path / MANIFEST), _signature(path)
        if self._intact.get(path.name) == signature:
            return Checkpoint(path, manifest)
        content = _content(path, manifest)
        self._intact[path.name] = signature
        return Checkpoint(path, manifest, [content])

    def _verify(self, path: Path) -> None:
        """Raise an error unless the checkpoint in `path` matches its manifest. It is read only if it may have changed.

        Other than `_read`, this needs no memory for the state.
        """
        manifest, signature = Manifest.read(path / MANIFEST), _signature(path)
        state = path / STATE
        _require_size(state.stat().st_size, manifest)
        if self._intact.get(path.name) != signature:
            _require_digest(sha256(state), manifest)
            self._intact[path.name] = signature


class _Damaged(Exception):
    """A state does not match its manifest."""


def _content(path: Path, manifest: Manifest) -> bytes:
    """Read the file of a state once. Raises _Damaged if it differs from the manifest, OSError if it cannot be read."""
    _require_size((path / STATE).stat().st_size, manifest)
    content = read_file(path / STATE)
    _require_digest(hashlib.sha256(content).hexdigest(), manifest)
    return content


def _require_size(found: int, manifest: Manifest) -> None:
    if found != manifest.bytes:
        raise _Damaged(f"{STATE} has {found} bytes, {MANIFEST} says {manifest.bytes}")


def _require_digest(found: str, manifest: Manifest) -> None:
    if found != manifest.sha256:
        raise _Damaged(f"{STATE} differs from the SHA-256 in {MANIFEST}")


def _signature(path: Path) -> tuple[int, ...]:
    """Return numbers that change if a file of a checkpoint is replaced or written."""
    about = [(path / name).stat() for name in (STATE, MANIFEST)]
    return tuple(number for one in about for number in (one.st_ino, one.st_size, one.st_mtime_ns))


def _is_damage(error: Exception) -> bool:
    """Whether an error while reading a checkpoint says that it is damaged, and not that it cannot be read now."""
    source = error.__cause__ if isinstance(error, RecordError) else error
    return not isinstance(source, OSError) or isinstance(source, FileNotFoundError | IsADirectoryError)


def _is_milestone(path: Path) -> bool:
    """Whether the checkpoint is kept permanently. One without a readable manifest is, because it may be anything."""
    try:
        return Manifest.read(path / MANIFEST).milestone
    except (OSError, RecordError):
        return True


def _set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint, so that it is not read again. Returns its new path."""
    require_may_write()
    number = 0
    while (aside := path.with_name(damaged_name(path.name, number))).exists():
        number += 1
    path.rename(aside)
    return aside
