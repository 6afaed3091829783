"""The datasets that are known by name: one file per dataset, or per group of datasets that share a reader.

Each module defines `DATASETS`, a tuple of `trex.datasets.record.Dataset`; `trex/datasets/registry.py` finds it there.
Submitting jobs imports these modules, so heavy imports (numpy, scipy, torchvision) stand inside the reader functions.
"""
