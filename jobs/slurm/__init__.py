"""The Slurm back end: batch scripts, job dependencies, the queue, requeueing. No other package uses Slurm's terms."""

KIND = "slurm"  #: the name of this back end in cluster files and in submission records
