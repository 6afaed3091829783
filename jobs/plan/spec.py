"""What a job is told to do, in plain values: all else is read from the run folder, so that a requeued job finds it as
it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from trex.records.run_dir import dataset_folder
from trex.records.stage import STAGES, Stage

__all__ = ["STAGES", "Item", "Stage", "TaskSpec"]


@dataclass(frozen=True)
class Item:
    """A dataset that a job extracts or probes."""

    dataset: str
    seeds: tuple[int, ...] = ()  #: of its probes, consecutive; none: all that the config asks for

    @property
    def name(self) -> str:
        """`dtd`; with some of the seeds only, `dtd-seed3` or `dtd-seeds2-3`."""
        dataset = dataset_folder(self.dataset)
        if not self.seeds:
            return dataset
        first, last = self.seeds[0], self.seeds[-1]
        return f"{dataset}-seed{first}" if first == last else f"{dataset}-seeds{first}-{last}"


@dataclass(frozen=True)
class TaskSpec:
    """One job, or one element of an array."""

    stage: Stage
    run: str  #: absolute path of the run folder
    items: tuple[Item, ...] = ()  #: gone through one after the other

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of its state files and locks: the stage, or one for each item, such as `extract-dtd`."""
        return tuple(f"{self.stage}-{item.name}" for item in self.items) or (self.stage,)
