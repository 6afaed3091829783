"""Slurm, and everything that knows its words: batch scripts, dependencies, the queue, requeueing."""

KIND = "slurm"  #: as cluster files and the records of submissions name this back end
