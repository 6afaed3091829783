"""Probes on stored features: the kinds of probes, their solvers, folds and results."""
