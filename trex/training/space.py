"""How much disk space the checkpoints of a training need, compared with what there is before its first step."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from trex.config.schema import Config
from trex.errors import Unwritable
from trex.methods import Method
from trex.model.widths import encoder_size
from trex.records.manifest import checkpoint_folders, milestones
from trex.storage import Space, in_bytes, require_space, unwritable
from trex.training.requirements import require_encoder
from trex.wording import counted

if TYPE_CHECKING:
    from torch import nn

    from trex.distributed import Ranks

log = logging.getLogger(__name__)

#: Files and folders per checkpoint, with a temporary one.
INODES_PER_CHECKPOINT = 4


def checkpoint_bytes(network: nn.Module) -> int:
    """Return about how many bytes a checkpoint takes: all tensors of the network, and each parameter's momentum."""
    from trex import tensor_files

    learned: int = sum(parameter.nbytes for parameter in network.parameters() if parameter.requires_grad)
    return learned + tensor_files.size(dict(network.state_dict()))


def planned_checkpoint_bytes(config: Config, classes: int) -> int:
    """Return what `checkpoint_bytes` returns for the network of a run, without building it where its sizes are known.

    Raises:
        UserError: if the encoder does not exist or cannot be trained.
    """
    assert isinstance(config.method, Method), "the loader reads the section `method` as a class of trex.methods"
    require_encoder(config)
    encoder = encoder_size(config.model.encoder)
    others = config.method.tensor_bytes(encoder, classes)
    if others is None:
        from trex.training.network import network_on_meta

        return checkpoint_bytes(network_on_meta(config, classes))
    return 2 * 4 * encoder.parameters + encoder.buffers + 2 * others.learned + others.others


def missing_checkpoints(folder: Path, config: Config) -> int:
    """Return for how many more checkpoints `folder` needs place: those to keep, the next one, and the milestones."""
    kept_for_ever, settings = len(milestones(folder)), config.checkpoint
    others = len(checkpoint_folders(folder)) - kept_for_ever
    every = settings.milestone_epochs
    wanted = (config.train.epochs - 1) // every if every else 0  # the one at the end is one of those to keep
    return max(settings.keep + 1 - others, 1) + max(wanted - kept_for_ever, 0)


def require_place(what: str, folder: Path, needed: int, inodes: int, ranks: Ranks) -> None:
    """Check before anything is computed that a result has place. Every rank must call it; rank 0 looks.

    Args:
        what: the result, for the message.
        folder: where it will be.
        needed: its bytes.
        inodes: its files and folders.
        ranks: the ranks that compute together.

    Raises:
        Unwritable: if there is no place, on every rank.
    """
    problem = ""
    if ranks.is_main:
        try:
            require_space(folder, needed, inodes)
        except OSError as error:
            problem = f"no place for {what}, so nothing is computed. {unwritable(error, folder, needed)}"
    if problem := ranks.broadcast(problem):
        raise Unwritable(problem)


def require_place_for_checkpoints(folder: Path, config: Config, size: int, ranks: Ranks) -> None:
    """Check before the first step that there is place for a checkpoint of `size` bytes. Every rank must call it.

    A warning is logged if there is no place for all that will be kept.

    Raises:
        Unwritable: if there is no place for one.
    """
    require_place("a checkpoint", folder, size, INODES_PER_CHECKPOINT, ranks)
    if not ranks.is_main:
        return
    space, count = Space.at(folder), missing_checkpoints(folder, config)
    if space.lacks(count * size, count * INODES_PER_CHECKPOINT):
        log.warning(
            "%s, and the training needs place for %s of %s, %s together: delete files there before it is full",
            space, counted(count, "more checkpoint"), in_bytes(size), in_bytes(count * size),
        )  # fmt: skip
