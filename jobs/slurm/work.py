"""What one call of sbatch submits, as values; only this module writes a dependency in the words of sbatch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from jobs.plan.spec import Stage, TaskSpec
from jobs.slurm.ids import JobId


class After(Enum):
    """What of another job has to come first, in the word of `sbatch --dependency`."""

    SUCCESS = "afterok"
    END = "afterany"  #: whether it succeeded or not
    SAME_ELEMENT = "aftercorr"  #: for an array: the success of the element with the same number


@dataclass(frozen=True)
class Dependency:
    """Other jobs that have to end before."""

    after: After
    jobs: tuple[JobId, ...]  #: at least one

    def __str__(self) -> str:
        """For a person."""
        jobs = ", ".join(map(str, self.jobs))
        return {
            After.SUCCESS: f"the success of {jobs}",
            After.END: f"the end of {jobs}",
            After.SAME_ELEMENT: f"the same dataset of {jobs}",
        }[self.after]


def sbatch_words(dependencies: Iterable[Dependency]) -> str:
    """The value of `sbatch --dependency`, such as `afterok:12,afterany:13:14`; empty for none."""
    return ",".join(":".join([one.after.value, *map(str, one.jobs)]) for one in dependencies)


@dataclass(frozen=True)
class Work:
    """One call of sbatch: a job, or an array with one element per spec. All specs are of one stage of one run."""

    specs: tuple[TaskSpec, ...]
    waits: tuple[Dependency, ...] = ()
    parallel: int = 0  #: elements that run at once; 0: as many as the cluster allows

    @property
    def stage(self) -> Stage:
        """The stage of all specs."""
        return self.specs[0].stage

    @property
    def keys(self) -> tuple[str, ...]:
        """Name of the state file of each spec."""
        return tuple(spec.keys[0] for spec in self.specs)
