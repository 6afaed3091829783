"""Writes a run's newest weights to a file for other programs, and a model card next to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trex import tensor_files
from trex.errors import UserError
from trex.export.card import Facts, card
from trex.features.source import state_digest
from trex.files import sha256, write_text
from trex.records.run_dir import RunDir
from trex.training.checkpoint import Checkpoints
from trex.training.released import to_released

Layout = Literal["encoder", "full"]

FULL_SUFFIX = "_checkpoint_full.pth"
_SUFFIXES = (".pth", ".pt", tensor_files.SAFETENSORS)


@dataclass(frozen=True)
class Exported:
    """The result of an export."""

    file: Path
    card: Path
    checkpoint: str  #: name of the checkpoint's folder
    finished: bool  #: whether the training had finished


def layout_of(target: Path, asked: Layout | None) -> Layout:
    """The layout of a file: `asked`, or if that is None, the layout that its name implies.

    Raises:
        UserError: if the suffix is unknown or cannot hold the layout.
    """
    layout: Layout = asked or ("full" if target.name.endswith(FULL_SUFFIX) else "encoder")
    if target.suffix not in _SUFFIXES:
        raise UserError(f"{target}: expected a name that ends in {', '.join(_SUFFIXES)}")
    if layout == "full" and target.suffix == tensor_files.SAFETENSORS:
        raise UserError(
            f"{target}: a safetensors file holds tensors only, but a full checkpoint has other values too: "
            f"choose a name such as x{FULL_SUFFIX}"
        )
    return layout


def export(run: RunDir, target: Path, layout: Layout, license: str | None) -> Exported:
    """Write the newest checkpoint's weights to `target`, and a card of the same name that ends in `.md`.

    Args:
        run: a run with a checkpoint; its training need not have finished.
        target: the file; an existing file is never replaced.
        layout: `encoder`: torchvision's keys without those of the classifier. `full`: the released program's layout.
        license: license of the weights, for the card; None: not stated.

    Raises:
        UserError: if the run has no checkpoint, one of the files exists, or the layout does not support the method.
        OSError: if it cannot be written.
    """
    card_path = target.with_suffix(".md")
    for path in (target, card_path):
        if path.exists():
            raise UserError(
                f"{path} exists already, and an export never replaces a file: choose another name, or delete it"
            )
    found = Checkpoints(run.checkpoints).read_newest()
    if found is None:
        raise UserError(f"{run.root}: there is no checkpoint to export. Train first: trex train {run.name}")
    checkpoint, saved = found
    encoder = encoder_of(saved)
    tensor_files.save(encoder if layout == "encoder" else to_released(saved), target)
    facts = Facts(
        file=target.name,
        layout=layout,
        file_digest=sha256(target),
        encoder_digest=state_digest(encoder),
        checkpoint=checkpoint.path.name,
        checkpoint_digest=checkpoint.sha256,
        finished=checkpoint.finished,
        license=license,
        saved=saved,
    )
    write_text(card_path, card(run, facts))
    return Exported(target, card_path, checkpoint.path.name, checkpoint.finished)


def encoder_of(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict of the trained encoder in a saved training state, with contiguous tensors."""
    model = saved["model"]
    return {key.removeprefix("encoder."): model[key].contiguous() for key in model if key.startswith("encoder.")}
