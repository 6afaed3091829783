"""Readers of the transfer datasets' official files, one module a set (docs/datasets.md)."""
