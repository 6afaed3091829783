"""What the training needs of the code that evaluates its milestone checkpoints (jobs/worker/milestones.py)."""

from __future__ import annotations

from typing import Protocol


class Evaluation(Protocol):
    """Evaluates milestone checkpoints outside the training's processes. Only rank 0 calls it. It raises nothing."""

    def start(self) -> None:
        """Start the evaluation of all milestones on disk that lack it. Returns at once."""
        ...

    def holds_training(self) -> bool:
        """Return whether the training has to wait. Also ends what takes too long, and logs a failure once."""
        ...

    def finish(self) -> None:
        """Wait until what was started is submitted, for a limited time. Called when the training has finished."""
        ...

    def stop(self) -> None:
        """End what was started and still runs. Called when the training ends for any reason."""
        ...
