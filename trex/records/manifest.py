"""What the checkpoints of a run claim to be, from their manifests alone. Imports nothing heavy: submitting asks it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from trex.files import read_json, sha256

NAME = re.compile(r"epoch-[0-9]{4,}-step-[0-9]{8,}")
STATE = "checkpoint.pt"
MANIFEST = "manifest.json"


def checkpoint_folders(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, newest first, whole or not."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if NAME.fullmatch(path.name)), reverse=True)


def newest_manifest(folder: Path, read_states: bool = False) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint in `folder` whose state has the size that its manifest says, and that manifest; None if
    there is none. With `read_states` the state must have its SHA-256 too, as for those who load it."""
    for path in checkpoint_folders(folder):
        try:
            found = read_json(path / MANIFEST)
            manifest = {"step": int(found["step"]), "sha256": str(found["sha256"]), "finished": bool(found["finished"])}
            is_whole = (path / STATE).stat().st_size == found["bytes"]
            if is_whole and not (read_states and sha256(path / STATE) != manifest["sha256"]):
                return path, manifest
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None
