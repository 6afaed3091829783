"""The learning rate of every step."""

from __future__ import annotations

import math

from trex.config.schema import OptimizerConfig


def learning_rate(step: int, steps_per_epoch: int, epochs: int, config: OptimizerConfig, batch_size: int) -> float:
    """Linear warm-up from 0, then cosine to `final_lr` (SGDR, arXiv 1608.03983, eq. 5, one cycle).

    Args:
        step: steps done before this one, 0 … epochs * steps_per_epoch - 1.
        steps_per_epoch: steps of one pass.
        epochs: passes in all.
        config: peak for a batch of 256, final rate, warm-up in epochs.
        batch_size: images a step over all ranks; the peak is scaled by batch_size / 256 (arXiv 1706.02677).

    Returns:
        The rate of this step: 0 at the first warm-up step, the peak at the last one, `final_lr` at the last step.
    """
    peak = config.lr * batch_size / 256
    total = epochs * steps_per_epoch
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return peak * step / (warmup - 1) if warmup > 1 else peak
    done = (step - warmup) / max(total - warmup - 1, 1)
    return config.final_lr + 0.5 * (peak - config.final_lr) * (1.0 + math.cos(math.pi * done))
