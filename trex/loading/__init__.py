"""Batches for training and evaluation: the order of an epoch, worker processes."""
