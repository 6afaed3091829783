"""WHERE and WHEN it runs: the command line, submission, requeueing, status. The only room that imports submitit."""
