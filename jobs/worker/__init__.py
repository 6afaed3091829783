"""What every process of a job runs, in any back end: lock, rendezvous of the ranks, stage, record of the end."""
