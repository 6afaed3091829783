"""This machine: the same jobs as on a cluster, started at once and followed to their end."""

KIND = "local"  #: as cluster files and records name this back end
