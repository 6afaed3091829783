"""The work of a job, in plain values. A job reads everything else from the run folder each time it starts."""

from __future__ import annotations

from dataclasses import dataclass

from trex.records.run_dir import dataset_folder
from trex.records.stage import STAGES, Stage

__all__ = ["STAGES", "Item", "Stage", "TaskSpec"]


@dataclass(frozen=True)
class Item:
    """A dataset that a job extracts or probes."""

    dataset: str
    seeds: tuple[int, ...] = ()  #: seeds of its probes, consecutive; empty: all seeds of the config

    @property
    def name(self) -> str:
        """The name in keys: `dtd`, or with only some of the seeds `dtd-seed3` or `dtd-seeds2-3`."""
        dataset = dataset_folder(self.dataset)
        if not self.seeds:
            return dataset
        first, last = self.seeds[0], self.seeds[-1]
        return f"{dataset}-seed{first}" if first == last else f"{dataset}-seeds{first}-{last}"


@dataclass(frozen=True)
class TaskSpec:
    """The work of one job, or of one element of a job array."""

    stage: Stage
    run: str  #: absolute path of the run folder
    items: tuple[Item, ...] = ()  #: done one after the other

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of its state files and locks: one per item, such as `extract-dtd`, or the stage without items."""
        return tuple(f"{self.stage}-{item.name}" for item in self.items) or (self.stage,)
