"""The known datasets: one file per dataset, or per group of datasets that share a reader.

Each module defines `DATASETS`, a tuple of `trex.datasets.record.Dataset` that `trex/datasets/registry.py` collects.
Submitting jobs imports these modules, so heavy imports (numpy, scipy, torchvision) must be inside the reader functions.
"""
