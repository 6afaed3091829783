"""Runs two ways alternately in one process, and compares their times round by round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Times:
    """The times of both ways in each round, in seconds."""

    usual: tuple[float, ...]
    ours: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """How many times as long the usual way takes, in each round."""
        return [usual / ours for usual, ours in zip(self.usual, self.ours, strict=True)]

    @property
    def ratio(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> str:
        """The median ratio, and the smallest and largest of the rounds: `6.2 (6.0 to 6.5)`."""
        return f"{self.ratio:.2f} ({min(self.ratios):.2f} to {max(self.ratios):.2f})"

    @property
    def usual_median(self) -> float:
        """Median time of the usual way, in seconds."""
        return statistics.median(self.usual)

    @property
    def ours_median(self) -> float:
        """Median time of this project, in seconds."""
        return statistics.median(self.ours)


def alternate(
    usual: Callable[[int], object],
    ours: Callable[[int], object],
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> Times:
    """Time two functions, alternately and in changing order.

    A round before the first one is not measured: it compiles, and fills caches.

    Args:
        usual: the usual way; called with the number of the round, from 0.
        ours: this project's way.
        rounds: number of measured rounds.
        clock: `time.process_time` counts the seconds of CPU of this process, which other processes hardly change;
            `time.perf_counter` counts the seconds that pass, for what waits or uses other processes.
    """
    times: dict[bool, list[float]] = {True: [], False: []}
    for number in range(rounds + 1):
        for is_ours in (False, True) if number % 2 else (True, False):
            began = clock()
            (ours if is_ours else usual)(number)
            if number:
                times[is_ours].append(clock() - began)
    return Times(tuple(times[False]), tuple(times[True]))
