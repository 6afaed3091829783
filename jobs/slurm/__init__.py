"""Slurm, and everything that knows its words: batch scripts, dependencies, the queue, requeueing."""
