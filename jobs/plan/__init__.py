"""What to run and where: the missing work of a run, the specs of jobs, cluster files, memory estimates."""
