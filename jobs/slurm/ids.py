"""Slurm's ids of jobs: `123`, and `123_4` for an element of an array."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class JobId:
    """A job, or one element of an array of jobs."""

    array: str  #: of the whole array; of a single job its own number
    element: int | None = None

    def __str__(self) -> str:
        """As Slurm and the names of log files have it."""
        return self.array if self.element is None else f"{self.array}_{self.element}"

    @classmethod
    def parse(cls, text: str) -> JobId:
        """The id that `text` is; what is not one of an element is one of a whole job."""
        found = re.fullmatch(r"(.+)_(\d+)", text)
        return cls(text) if found is None else cls(found[1], int(found[2]))


def elements(text: str) -> list[JobId]:
    """The jobs that an id of Slurm's stands for: `12_[0-2,7%4]`, an array that waits, is 12_0, 12_1, 12_2 and 12_7."""
    found = re.fullmatch(r"(\d+)_\[([\d,:-]+)(?:%\d+)?\]", text)
    if found is None:
        return [JobId.parse(text)]
    ids = []
    for part in found[2].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        ids += [JobId(found[1], number) for number in range(int(first), int(last or first) + 1, int(step or 1))]
    return ids
