"""How a final fit comes to its C: along decades of C, from states that the seeds of a dataset share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from trex.probing.memory import SHARED_STATES
from trex.probing.solution import PathState

#: A cold start is quick at this λ or a larger one.
QUICK = 0.1


def decades_to(c: float, strength: float) -> list[float]:
    """The powers of ten to solve before C = `c`, ascending; none if λ is large there. `strength` is λ at C = 1.

    The first one depends on the images alone, so that fits for different values of C share the beginning of their path.
    """
    first = math.floor(math.log10(strength / QUICK))
    last = math.ceil(math.log10(c) - 1e-4) - 1  # GRID has six digits
    return [float(f"1e{power}") for power in range(first, last + 1)]


@dataclass(frozen=True)
class Approach:
    """The progress of a final fit."""

    done: int = 0  #: values of C that it has solved
    state: PathState | None = None  #: of its path; None before the first value of C
    whole: bool = False  #: whether its path goes on with all images, else with a part of them

    @classmethod
    def of(cls, plain: Any) -> Self:
        """The progress from the value that `plain` returned."""
        return cls(int(plain[0]), PathState.of(plain[1]), bool(plain[2]))

    def plain(self) -> tuple[object, ...]:
        """The progress as tensors and numbers in tuples and lists, for a file."""
        assert self.state is not None
        return self.done, self.state.plain(), self.whole


class Approaches:
    """The paths of final fits after each decade of C with all images, so that the next fit goes on from there.

    They depend on the images alone, so a fit has the same bits without them. Those that do not fit into SHARED_STATES
    bytes are computed again.
    """

    def __init__(self) -> None:
        self._found: dict[float, Approach] = {}
        self._bytes = 0

    def keep(self, c: float, approach: Approach) -> None:
        """Keep the path after the decade `c`."""
        size = 0 if approach.state is None else approach.state.bytes
        if c not in self._found and self._bytes + size <= SHARED_STATES:
            self._found[c], self._bytes = approach, self._bytes + size

    def nearest(self, decades: Sequence[float]) -> Approach:
        """The path that has solved most of the decades."""
        return next((self._found[c] for c in reversed(decades) if c in self._found), Approach())
