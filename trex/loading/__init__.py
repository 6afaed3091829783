"""Batches for training and evaluation, the order of the images in an epoch, and the worker processes."""
