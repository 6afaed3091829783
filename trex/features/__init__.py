"""Features of datasets from a frozen encoder: extraction, and the HDF5 files they are stored in."""
