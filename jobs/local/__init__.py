"""The back end for this machine: runs the same jobs as a cluster, without a queue, and waits for their end."""

KIND = "local"  #: the name of this back end in cluster files and records
