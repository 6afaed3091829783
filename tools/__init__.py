"""Programs to run by hand: the demo, a Slurm sandbox, benchmarks, and generators of documents."""
