"""Datasets: one record per dataset, the readers of their files, and the splits that the readers return."""
