"""WHAT is computed: data, model, training, features, probes, report. Knows nothing of Slurm or command lines."""

__version__ = "0.1.0"
