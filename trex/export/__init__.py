"""Exports a run's weights as files for other programs, with a model card."""
