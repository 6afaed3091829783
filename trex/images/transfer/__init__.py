"""Readers of the transfer data sets' official files, one module a set (docs/datasets.md)."""
