"""The training loop, its state, checkpoints, resuming and validation."""
