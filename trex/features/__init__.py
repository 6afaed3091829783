"""Features of datasets from a frozen encoder: their extraction, and their HDF5 files."""
