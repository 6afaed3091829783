"""The notes about broken images that were skipped (`data.broken_images=skip`), in features and in trainings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trex.records.metrics import SKIPPED
from trex.reporting.collect import RunData
from trex.wording import counted


def notes(runs: Sequence[RunData]) -> list[str]:
    """What was skipped in each run, and which datasets of two runs have other images than each other."""
    lines = [line for run in runs for line in (*_features(run), *_training(run))]
    if any(cell.skipped for run in runs for cell in run.cells.values()):
        lines.insert(0, "† broken images were skipped: not exactly comparable with results on all images.")
    return [*lines, *_differing(runs)]


def _features(run: RunData) -> Iterator[str]:
    found = {name: cell.skipped for (_, name), cell in sorted(run.cells.items()) if cell.skipped}
    for name, skipped in found.items():
        yield f"{run.name}: {name}: skipped {skipped.trainval} trainval and {skipped.test} test images."


def _training(run: RunData) -> Iterator[str]:
    for phase, what in (("train", "its training replaced"), ("validation", "its validation skipped")):
        count = max((int(line.values.get(SKIPPED, 0)) for line in run.metrics if line.phase == phase), default=0)
        if count:
            yield f"{run.name}: {what} {counted(count, 'broken image')}."


def _differing(runs: Sequence[RunData]) -> Iterator[str]:
    for name in sorted({name for run in runs for _, name in run.cells}):
        found = {run.name: cell for run in runs for (_, dataset), cell in run.cells.items() if dataset == name}
        if len({cell.skipped.digest for cell in found.values()}) > 1:
            yield (
                f"{name}: not exactly comparable with each other, because different images were skipped: "
                + ", ".join(
                    f"{run} ({cell.skipped.trainval} + {cell.skipped.test} skipped)" for run, cell in found.items()
                )
            )
