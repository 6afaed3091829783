"""What to do and where: the missing work of a run, what each job is told, cluster files, memory estimates."""
