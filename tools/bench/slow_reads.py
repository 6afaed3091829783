"""Images that are read as slowly as from a network's file system. Loader processes import this module only."""

from __future__ import annotations

import time

from trex.datasets.split import Split
from trex.images.decode import RGB

READ_SECONDS = 0.002


class SlowSplit(Split):
    """A split whose reads wait."""

    def read(self, index: int, fast: bool = False) -> RGB:
        """Wait, then decode image `index`."""
        time.sleep(READ_SECONDS)
        return super().read(index, fast)
