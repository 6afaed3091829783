"""The work of a job, in plain values. A job reads everything else from the run folder each time it starts."""

from __future__ import annotations

from dataclasses import dataclass

from trex.records.run_dir import dataset_folder, milestone_name
from trex.records.stage import STAGES, Stage

__all__ = ["STAGES", "Item", "Stage", "TaskSpec", "is_of_milestone"]


_AT = "@"  #: in keys, before the milestone; no name of a dataset has it


@dataclass(frozen=True)
class Item:
    """A dataset that a job extracts or probes."""

    dataset: str
    seeds: tuple[int, ...] = ()  #: seeds of its probes, consecutive; empty: all seeds of the config
    milestone: int | None = None  #: the encoder after this many epochs; None: the final encoder

    @property
    def name(self) -> str:
        """The name in keys: `dtd`, with only some of the seeds `dtd-seed3` or `dtd-seeds2-3`, at a milestone
        `dtd@epoch-0010`."""
        name = dataset_folder(self.dataset)
        if self.seeds:
            first, last = self.seeds[0], self.seeds[-1]
            name += f"-seed{first}" if first == last else f"-seeds{first}-{last}"
        return name if self.milestone is None else f"{name}{_AT}{milestone_name(self.milestone)}"


@dataclass(frozen=True)
class TaskSpec:
    """The work of one job, or of one element of a job array."""

    stage: Stage
    run: str  #: absolute path of the run folder
    items: tuple[Item, ...] = ()  #: done one after the other
    staging: str = ""  #: folder of each node for copies of packs, with its variables; empty: packs are read in place

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of its state files and locks: one per item, such as `extract-dtd`, or the stage without items."""
        return tuple(f"{self.stage}-{item.name}" for item in self.items) or (self.stage,)

    @property
    def of_milestones(self) -> bool:
        """Whether all its items are of milestones."""
        return bool(self.items) and all(item.milestone is not None for item in self.items)


def is_of_milestone(key: str) -> bool:
    """Return whether a key belongs to the work at a milestone."""
    return _AT in key
