"""What the checkpoints of a run claim to be, from their manifests alone. Imports nothing heavy: submitting asks it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from trex.files import read_json

NAME = re.compile(r"epoch-[0-9]{4,}-step-[0-9]{8,}")
MANIFEST = "manifest.json"


def checkpoint_folders(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, newest first, whole or not."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if NAME.fullmatch(path.name)), reverse=True)


def newest_manifest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint in `folder` and its manifest, or None if there is none, or its manifest is not readable.
    Whether the state fits the manifest is not looked at."""
    for path in checkpoint_folders(folder)[:1]:
        try:
            manifest = read_json(path / MANIFEST)
            return path, {
                "step": int(manifest["step"]),
                "sha256": str(manifest["sha256"]),
                "finished": bool(manifest["finished"]),
            }
        except (OSError, ValueError, KeyError, TypeError):
            return None
    return None
