"""Programs that are run by hand: the demo, a Slurm on one machine, benchmarks, documents made from the code."""
