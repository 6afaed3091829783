"""How often a training saves, if `checkpoint.every_minutes` is `auto` (docs/adr/0030-the-interval-of-checkpoints.md).

A save costs time, and so do the steps that a failure makes the run repeat. The interval at which both together cost
least follows from the time of a save and the mean time between failures. Nothing else in the training depends on it.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trex.records.attempts import Attempt, training_attempts
from trex.records.events import IntervalChosen, read_events, record

log = logging.getLogger(__name__)

#: Hours between two failures of a node: 6.50 failures in 1000 node-days, the larger of the rates of two clusters with
#: 24,000 GPUs, eight per node (Kokolis et al., "Revisiting Reliability in Large-Scale Machine Learning Research
#: Clusters", HPCA 2025, arXiv 2410.21680). Llama 3's training had 3.8: 419 in 54 days of 2048 nodes (arXiv 2407.21783).
NODE_HOURS = 3700.0

#: Weight of that figure against what the run has seen, in failures. Small, because clusters differ a lot.
WEIGHT = 0.02

#: Seconds between saves until the run has measured one.
UNTIL_MEASURED = 600.0

#: Bounds of the interval, seconds, because the rate of failures is an estimate. It may be longer than `LONGEST`, as
#: long as saves then still need `CHEAP` of the time.
SHORTEST, LONGEST, CHEAP = 60.0, 1800.0, 0.01

#: A checkpoint is written in the background for at most this share of the time, because the file system is shared, and
#: writing takes a little of the training's CPU time.
BUSY = 0.1

#: The time of a save is the mean of the last ones.
_SAVES = 10
#: The interval is logged and recorded again when it has changed by this factor.
_CHANGE = 1.25


@dataclass(frozen=True)
class History:
    """The failures that a run has seen."""

    failures: int = 0
    hours: float = 0.0  #: of training
    node_hours: float = 0.0

    @classmethod
    def of(cls, ended: Sequence[Attempt]) -> History:
        """Return the history of attempts that have ended."""
        return cls(
            sum(one.failed for one in ended),
            sum(one.hours for one in ended),
            sum(one.hours * max(one.start.nodes, 1) for one in ended),
        )

    def plus(self, hours: float, nodes: int) -> History:
        """Return this history and some more hours without a failure."""
        return History(self.failures, self.hours + hours, self.node_hours + hours * nodes)

    def hours_between_failures(self, nodes: int) -> float:
        """Return the mean time between failures on that many nodes, in hours.

        The rate of failures per node and hour has a Gamma distribution with shape `WEIGHT` and mean 1 / `NODE_HOURS`
        before anything is seen. This is one divided by its mean afterwards, for failures that come independently, and
        at most `NODE_HOURS`: a run without a failure says little about the next one.
        """
        seen = (WEIGHT * NODE_HOURS + self.node_hours) / (WEIGHT + self.failures)
        return min(seen, NODE_HOURS) / nodes


def best_interval(save: float, between_failures: float) -> float:
    """Return the seconds between the end of a save and the start of the next at which both costs together are least.

    The estimate of J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps" (Future
    Generation Computer Systems 22, 2006), equation 37. For quick saves it is J. W. Young's √(2 · save · between).

    Args:
        save: seconds that a save takes.
        between_failures: mean time between failures, seconds.
    """
    if save >= 2 * between_failures:
        return between_failures
    ratio = save / (2 * between_failures)
    return math.sqrt(2 * save * between_failures) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save


def chosen_interval(save: float, between_failures: float, write: float = 0.0) -> float:
    """Return `best_interval`, within the bounds. `write`: seconds that the writing in the background takes."""
    shortest = max(SHORTEST, write / BUSY)
    longest = max(LONGEST, save / CHEAP, shortest)
    return min(max(best_interval(save, between_failures), shortest), longest)


class Interval:
    """The time between two saves of a run: fixed, or chosen from what rank 0 measures."""

    def __init__(self, every_minutes: float | Literal["auto"], events: Path) -> None:
        """
        Args:
            every_minutes: the setting; 0: not by time.
            events: the run's history, from which earlier failures and saves are read.
        """
        self._is_auto = every_minutes == "auto"
        self._events = events
        self._history, self._nodes, self._since = History(), 1, time.monotonic()
        self._saves: deque[float] = deque(maxlen=_SAVES)  # how long the training waited for each
        self._writes: deque[float] = deque(maxlen=_SAVES)  # how long each was written
        self._recorded = 0.0
        self.seconds = UNTIL_MEASURED if every_minutes == "auto" else 60.0 * every_minutes

    def begin(self, step: int) -> None:
        """Read what earlier starts of the run have seen, and choose. Only rank 0 calls it, at the start."""
        if not self._is_auto:
            return
        events = read_events(self._events).records
        found = training_attempts(events)
        if found:  # the last one is this start
            self._history, self._nodes = History.of(found[:-1]), max(found[-1].start.nodes, 1)
        self._writes.extend(save.seconds for one in found for save in one.saves)
        chosen = [event.save_seconds for event in events if isinstance(event, IntervalChosen)]
        self._saves.extend(
            chosen[-1:] or self._writes
        )  # until it was measured, as if the training waited for all of it
        self._choose(step)

    def saved(self, waited: float | None, written: float, step: int) -> None:
        """Note how long a save made the training wait, and how long it was written, in seconds, and choose again.

        `waited` is None for a save after which the training ends. Only rank 0 calls this.
        """
        if waited is not None:
            self._saves.append(waited)
        self._writes.append(written)
        if self._is_auto:
            self._choose(step)

    @property
    def save_seconds(self) -> float | None:
        """How long a save makes the training wait, in the mean; None before the first one, and on other ranks."""
        return sum(self._saves) / len(self._saves) if self._saves else None

    @property
    def write_seconds(self) -> float | None:
        """How long it takes until a save is on disk, in the mean; None before the first one, and on other ranks."""
        return sum(self._writes) / len(self._writes) if self._writes else None

    def _choose(self, step: int) -> None:
        save = self.save_seconds
        if save is None:
            return
        history = self._history.plus((time.monotonic() - self._since) / 3600, self._nodes)
        hours = history.hours_between_failures(self._nodes)
        self.seconds = chosen_interval(save, 3600 * hours, self.write_seconds or 0.0)
        if not self._recorded / _CHANGE < self.seconds < self._recorded * _CHANGE:
            self._recorded = self.seconds
            chosen = IntervalChosen(
                round(time.time(), 3), step, round(self.seconds, 1), round(save, 3), round(hours, 2),
                history.failures, round(history.hours, 2),
            )  # fmt: skip
            record(chosen, self._events)
            log.info("%s", chosen.text)
