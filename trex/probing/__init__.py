"""Probes on stored features: the solver, the kinds of probe, folds, results."""
