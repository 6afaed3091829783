"""What every process of a job runs, on Slurm and on this machine: lock, meeting of the ranks, stage, recorded end."""
