"""Real photographs: scikit-learn's two samples."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_sample_images


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """uint8 (375, 500, 3)."""
    return load_sample_images().images[0][:375, :500].copy()
