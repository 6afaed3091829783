"""`checkpoints/<name>/manifest.json`: step, size and digest of a checkpoint.

Saving a checkpoint writes it (trex/training/checkpoint.py). Resuming and exporting check the checkpoint's state against
it; planning (jobs/plan/) and `trex status` read only the manifest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from trex.files import sha256
from trex.records.base import Count, Record, RecordError
from trex.records.typed import Bounds

NAME = re.compile(r"epoch-([0-9]{4,})-step-([0-9]{8,})")
STATE = "checkpoint.pt"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest(Record):
    """Description of one checkpoint."""

    FORMAT: ClassVar[int] = 1

    step: Count  #: total number of steps done
    bytes: Annotated[int, Bounds(0, 2**63 - 1)]  #: size of the state's file
    sha256: str  #: of the state's file, 64 hexadecimal digits
    milestone: bool  #: whether it is kept when older checkpoints are deleted
    finished: bool  #: whether the training is complete at this step

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256: found {self.sha256[:80]!a}, expected 64 hexadecimal digits")


def checkpoint_name(epoch: int, step: int) -> str:
    """Name of a checkpoint's folder, from the number of finished epochs and of steps done in the next epoch."""
    return f"epoch-{epoch:04d}-step-{step:08d}"


def checkpoint_folders(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, newest first. Some may be incomplete."""
    if not folder.is_dir():
        return []
    return sorted(
        (path for path in folder.iterdir() if NAME.fullmatch(path.name)),
        key=lambda path: position_of(path.name),
        reverse=True,
    )


def position_of(name: str) -> tuple[int, int]:
    """Epoch and step in the name of a checkpoint, to compare checkpoints: as text, epoch 10000 is before epoch 9999."""
    _, epoch, _, step = name.split("-")
    return int(epoch), int(step)


def damaged_name(name: str, number: int) -> str:
    """Name of the folder to which a damaged checkpoint is renamed, so that no reader opens it again."""
    return f"{name}.damaged-{number}"


def damaged_folders(folder: Path) -> list[Path]:
    """The checkpoints in `folder` that were found damaged and renamed, sorted by name."""
    return sorted(path for path in folder.glob("epoch-*.damaged-*") if NAME.fullmatch(path.name.partition(".")[0]))


def epoch_of(name: str) -> int | None:
    """The number of finished epochs of a checkpoint with this name; None if it is within an epoch, or no such name."""
    found = NAME.fullmatch(name)
    return int(found[1]) if found and not int(found[2]) else None


def manifest_at(folder: Path, epoch: int) -> tuple[Path, Manifest] | None:
    """Return the checkpoint in `folder` after `epoch` epochs, and its manifest; None if there is none.

    The size of the state's file must match.
    """
    path = folder / checkpoint_name(epoch, 0)
    try:
        manifest = Manifest.read(path / MANIFEST)
        return (path, manifest) if (path / STATE).stat().st_size == manifest.bytes else None
    except (OSError, RecordError):
        return None


def milestones(folder: Path) -> list[int]:
    """The epochs of the milestone checkpoints in `folder`, ascending, without the one at the end of the training."""
    found = []
    for path in reversed(checkpoint_folders(folder)):
        epoch = epoch_of(path.name)
        checkpoint = None if epoch is None else manifest_at(folder, epoch)
        if epoch is not None and checkpoint and checkpoint[1].milestone and not checkpoint[1].finished:
            found.append(epoch)
    return found


def newest_manifest(folder: Path, read_states: bool = False) -> tuple[Path, Manifest] | None:
    """Return the newest checkpoint in `folder` that matches its manifest, and the manifest; None if there is none.

    The size of the state's file must match. With `read_states`, for loading the state, its SHA-256 must match too.
    """
    for path in checkpoint_folders(folder):
        try:
            manifest = Manifest.read(path / MANIFEST)
            is_complete = (path / STATE).stat().st_size == manifest.bytes
            if is_complete and not (read_states and sha256(path / STATE) != manifest.sha256):
                return path, manifest
        except (OSError, RecordError):
            continue
    return None
