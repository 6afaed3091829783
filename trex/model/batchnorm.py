"""Batch norm with the statistics of the batch over all ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trex.distributed import Ranks


def synchronize(module: nn.Module, ranks: Ranks) -> nn.Module:
    """Replace every batch norm in `module` by a synchronized one and return the module. One rank needs no change.

    The state dict stays the same. PyTorch's SyncBatchNorm accepts no CPU tensors, so gloo ranks get `CpuSyncBatchNorm`.
    """
    if ranks.world == 1:
        return module
    if ranks.device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return converted
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            setattr(module, name, CpuSyncBatchNorm.like(child))
        else:
            synchronize(child, ranks)
    return module


class CpuSyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Synchronized batch norm over gloo, for (N, C) and (N, C, H, W) inputs."""

    @classmethod
    def like(cls, norm: nn.modules.batchnorm._BatchNorm) -> CpuSyncBatchNorm:
        """Build a synchronized batch norm with the running statistics of `norm` and the same parameter objects.

        Parameters of a momentum network therefore stay without gradient.
        """
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        made.load_state_dict(norm.state_dict())
        made.weight, made.bias = norm.weight, norm.bias
        return made.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.dim() in (2, 4), f"expected (N, C) or (N, C, H, W), got {input.dim()} dimensions"

    def forward(self, input: Tensor) -> Tensor:
        """Normalize by the statistics of the batch over all ranks in training mode, else by the running statistics."""
        self._check_input_dim(input)
        if not self.training:
            return super().forward(input)
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        with torch.autocast("cpu", enabled=False):
            output, mean, variance, count = _SyncNorm.apply(
                input.to(torch.promote_types(input.dtype, torch.float32)), self.weight, self.bias, self.eps
            )
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            momentum = 0.1 if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), momentum)
        normalized: Tensor = output.to(input.dtype)
        return normalized


class _SyncNorm(torch.autograd.Function):
    """Normalization with one collective per direction.

    Forward gathers each rank's mean, biased variance and count, and combines them by Chan's formula. Backward sums dy
    and dy · x̂ over the ranks.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        variance, mean = torch.var_mean(x, dim=axes, correction=0)
        mine = torch.cat([mean, variance, mean.new_tensor([x.numel() / x.shape[1]])])
        gathered = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, mine)
        stacked = torch.stack(gathered).double()
        channels = x.shape[1]
        means, variances, counts = stacked[:, :channels], stacked[:, channels:-1], stacked[:, -1:]
        total = counts.sum()
        mean64 = (means * counts).sum(0) / total
        variance64 = ((variances + (means - mean64).square()) * counts).sum(0) / total
        mean, variance = mean64.to(x.dtype), variance64.to(x.dtype)
        scale = torch.rsqrt(variance + eps)
        shape = [1, -1] + [1] * (x.dim() - 2)
        normalized = (x - mean.view(shape)) * scale.view(shape)
        ctx.save_for_backward(normalized, weight, scale)
        ctx.axes, ctx.shape, ctx.total = axes, shape, float(total)
        ctx.mark_non_differentiable(mean, variance)
        return normalized * weight.view(shape) + bias.view(shape), mean, variance, total

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_unused: Tensor) -> tuple[Tensor | None, ...]:
        normalized, weight, scale = ctx.saved_tensors
        sum_dy = dy.sum(ctx.axes)
        sum_dy_x = (dy * normalized).sum(ctx.axes)
        sums = torch.stack([sum_dy, sum_dy_x])
        dist.all_reduce(sums)
        mean_dy, mean_dy_x = (sums / ctx.total).unbind()
        shape = ctx.shape
        dx = (dy - mean_dy.view(shape) - normalized * mean_dy_x.view(shape)) * (weight * scale).view(shape)
        return dx, sum_dy_x, sum_dy, None
