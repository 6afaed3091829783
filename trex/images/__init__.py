"""Pixels: decoding, crops, color operations, normalization."""
