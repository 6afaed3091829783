"""Compiles or loads all code of the crops when it is imported.

The process that loader processes are forked from imports this, so that they have the code when they start.
"""

from __future__ import annotations

import numpy as np

from trex.config.schema import CropsConfig
from trex.images.crops import multi_crop

multi_crop(np.zeros((16, 16, 3), np.uint8), CropsConfig(global_size=8, local_size=8, local_count=1), 0, 0, 0)
