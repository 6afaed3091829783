"""This machine: the same jobs as on a cluster, started at once and followed to their end."""
