"""The learning-rate schedule."""

from __future__ import annotations

import math

from trex.config.schema import OptimizerConfig


def learning_rate(step: int, steps_per_epoch: int, epochs: int, config: OptimizerConfig, batch_size: int) -> float:
    """Compute the learning rate of a step: linear warm-up from 0, then one cosine cycle to `final_lr`.

    The cosine is eq. 5 of SGDR (arXiv 1608.03983).

    Args:
        step: steps done before this one, 0 … epochs * steps_per_epoch - 1.
        steps_per_epoch: number of steps per epoch.
        epochs: number of epochs.
        config: peak rate for a batch of 256, final rate, and warm-up in epochs.
        batch_size: images per step over all ranks; the peak is scaled by batch_size / 256 (arXiv 1706.02677).

    Returns:
        The rate of this step: 0 at the first step of the warm-up, the peak at its last step and again at the first of
        the n steps after it, and just above `final_lr` at the last, as the released program has it: its n steps are
        the cosine at π k / n for k = 0 … n - 1.
    """
    peak = config.lr * batch_size / 256
    total = epochs * steps_per_epoch
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return peak * step / (warmup - 1) if warmup > 1 else peak
    done = (step - warmup) / (total - warmup)
    return config.final_lr + 0.5 * (peak - config.final_lr) * (1.0 + math.cos(math.pi * done))
