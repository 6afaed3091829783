"""What one call of sbatch submits. Only this module writes a dependency in sbatch's syntax."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from jobs.plan.spec import Stage, TaskSpec
from jobs.slurm.ids import JobId


class After(Enum):
    """The condition of a dependency; the values are the types of `sbatch --dependency`."""

    SUCCESS = "afterok"
    END = "afterany"  #: with success or without
    SAME_ELEMENT = "aftercorr"  #: success of the element with the same number in another array


@dataclass(frozen=True)
class Dependency:
    """Other jobs that must end first."""

    after: After
    jobs: tuple[JobId, ...]  #: at least one

    def __str__(self) -> str:
        """Return the dependency in words, for a message."""
        jobs = ", ".join(map(str, self.jobs))
        return {
            After.SUCCESS: f"the success of {jobs}",
            After.END: f"the end of {jobs}",
            After.SAME_ELEMENT: f"the same dataset of {jobs}",
        }[self.after]


def sbatch_dependency(dependencies: Iterable[Dependency]) -> str:
    """Return the value of `sbatch --dependency`, such as `afterok:12,afterany:13:14`; empty if there are none."""
    return ",".join(":".join([one.after.value, *map(str, one.jobs)]) for one in dependencies)


@dataclass(frozen=True)
class Work:
    """One call of sbatch: a job, or an array with one element per spec. All specs are of one stage of one run."""

    specs: tuple[TaskSpec, ...]
    waits: tuple[Dependency, ...] = ()
    parallel: int = 0  #: how many elements may run at once; 0: no limit

    @property
    def stage(self) -> Stage:
        """The stage of all specs."""
        return self.specs[0].stage

    @property
    def keys(self) -> tuple[str, ...]:
        """The key of each spec, which names its state file."""
        return tuple(spec.keys[0] for spec in self.specs)
