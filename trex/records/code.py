"""`code/<digest>.json`: the checkout that a copy of the code was made from.

A submission writes it next to the copy (jobs/slurm/snapshot.py), because the copy itself does not know its commit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trex.records.base import Record


@dataclass(frozen=True)
class Code(Record):
    """The code that an attempt ran."""

    FORMAT: ClassVar[int] = 1

    copy: str | None  #: name of the copy: the first digits of the SHA-256 of its content; None: it ran the checkout
    commit: str | None  #: git commit of the checkout; None if it was not one, as after `pip install`
    modified: bool  #: whether the packages in the checkout differed from that commit

    def __str__(self) -> str:
        """Commit and copy, for people; empty if neither is known."""
        commit = self.commit and self.commit[:12] + (" (modified)" if self.modified else "")
        return ", ".join(part for part in (commit and f"commit {commit}", self.copy and f"copy {self.copy}") if part)
