"""The rules of a Slurm site, and the requests that they would hold back forever. Read by `trex check` only."""
