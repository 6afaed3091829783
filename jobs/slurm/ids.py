"""Slurm's job ids: `123`, and `123_4` for an element of a job array."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class JobId:
    """The id of a job, or of one element of a job array."""

    array: str  #: id of the whole array, or of a single job
    element: int | None = None

    def __str__(self) -> str:
        """Return the id as Slurm writes it, also in the names of log files."""
        return self.array if self.element is None else f"{self.array}_{self.element}"

    @classmethod
    def parse(cls, text: str) -> JobId:
        """Parse `123_4` as an array element, and any other text as the id of a whole job."""
        found = re.fullmatch(r"(.+)_(\d+)", text)
        return cls(text) if found is None else cls(found[1], int(found[2]))


def elements(text: str) -> list[JobId]:
    """Return the jobs of an id from sacct: `12_[0-2,7%4]`, a pending array, is 12_0, 12_1, 12_2 and 12_7."""
    found = re.fullmatch(r"(\d+)_\[([\d,:-]+)(?:%\d+)?\]", text)
    if found is None:
        return [JobId.parse(text)]
    ids = []
    for part in found[2].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        ids += [JobId(found[1], number) for number in range(int(first), int(last or first) + 1, int(step or 1))]
    return ids
