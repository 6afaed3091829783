"""Finds the checkpoint that a start continues from, and gives its state to all ranks.

Rank 0 reads the file once, compares its SHA-256, and sends its content to the others. So the file system is asked for
it once, however many ranks there are, and they all have the same bytes, also where a network file system does not show
them the file yet (docs/adr/0036-checkpoints-are-written-while-the-training-continues.md).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from trex.config.compare import differences
from trex.config.schema import Config
from trex.distributed import Ranks
from trex.records.run_dir import RunDir
from trex.training.checkpoint import Checkpoints, State, parse
from trex.training.fallback import Fallback
from trex.training.state import machine_changes, require_same_run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """The newest intact checkpoint of a run, on every rank."""

    path: Path
    finished: bool  #: whether it finished the run
    _content: list[bytes] = field(default_factory=list, repr=False)  #: on rank 0, the file of its state, until read

    def state(self, config: Config, data_digest: str, ranks: Ranks) -> State:
        """Return its state, with tensors on the CPU. Every rank must call it, once.

        Args:
            config: the present config.
            data_digest: digest of the present training images.
            ranks: the present ranks.

        Raises:
            ResumeRefused: if it belongs to another config, dataset or number of processes.
            UserError: if it cannot be read.
        """
        saved = parse(ranks.broadcast_bytes(self._content.pop() if ranks.is_main else b""), self.path)
        changes = differences(saved["config"], config)
        require_same_run(saved, changes, data_digest, ranks, config.train.allow_world_change)
        if changed := machine_changes(saved, ranks):
            log.warning(
                "the machine is not the one of the checkpoint: %s. The result may differ in its last bits",
                ", ".join(changed),
            )
        return saved


def find(run: RunDir, config: Config, checkpoints: Checkpoints, ranks: Ranks) -> Found | None:
    """Return the newest intact checkpoint of the run, or None. Tidies up what a kill left. Every rank must call it.

    Raises:
        TrexError: if there are checkpoints and all are damaged, or see `Fallback.newest`.
    """
    content: list[bytes] = []

    def look() -> tuple[str, bool] | None:
        found = Fallback(run.root, config.checkpoint).newest(checkpoints)
        checkpoints.tidy(found)
        if found and not found.finished:
            content.append(found.content())
        return (str(found.path), found.finished) if found else None

    chosen = ranks.on_main(look)
    return Found(Path(chosen[0]), chosen[1], content) if chosen else None
