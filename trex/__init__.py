"""What is computed: data, networks, training, features, probes, reports. Knows nothing about Slurm or command lines."""

__version__ = "0.1.0"
