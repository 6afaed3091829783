"""What images there are: a record per dataset, the readers of their files, and the splits that come out."""
