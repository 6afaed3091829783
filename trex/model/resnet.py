"""ResNets with the names, shapes and initial weights of torchvision's.

They are here because importing torchvision's models takes 1.5 s of CPU in every process, nearly all of it for
`torch._dynamo`, which its operators for object detection load. tests/model/test_resnet.py compares each ResNet with
torchvision's, bit for bit: keys, initial weights, features, gradients (docs/adr/0039).

The architectures are those of He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), with the
stride in the 3 x 3 convolution; Zagoruyko and Komodakis, "Wide Residual Networks" (arXiv 1605.07146); Xie et al.,
"Aggregated Residual Transformations for Deep Neural Networks" (arXiv 1611.05431).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Channels of the first convolution. A stage has twice the channels of the one before it.
_STEM = 64
#: Classes of the classifier that torchvision builds with the encoder, and whose weights it draws.
_CLASSES = 1000


@dataclass(frozen=True)
class _Architecture:
    """What distinguishes the ResNets."""

    blocks: tuple[int, int, int, int]  #: of each stage
    bottleneck: bool = True  #: three convolutions per block, the last of which has four times the channels; or two
    groups: int = 1  #: of the 3 x 3 convolutions
    width: int = 64  #: channels per group of the 3 x 3 convolutions in the first stage


_50, _101 = (3, 4, 6, 3), (3, 4, 23, 3)
_ARCHITECTURES = {
    "resnet18": _Architecture((2, 2, 2, 2), bottleneck=False),
    "resnet34": _Architecture(_50, bottleneck=False),
    "resnet50": _Architecture(_50),
    "resnet101": _Architecture(_101),
    "resnet152": _Architecture((3, 8, 36, 3)),
    "resnext50_32x4d": _Architecture(_50, groups=32, width=4),
    "resnext101_32x8d": _Architecture(_101, groups=32, width=8),
    "resnext101_64x4d": _Architecture(_101, groups=64, width=4),
    "wide_resnet50_2": _Architecture(_50, width=128),
    "wide_resnet101_2": _Architecture(_101, width=128),
}


class _Block(nn.Module):
    """A residual block: the sum of its input and of two or three convolutions, each with a batch norm."""

    def __init__(self, inputs: int, channels: int, stride: int, made: _Architecture) -> None:
        super().__init__()
        outputs = channels * 4 if made.bottleneck else channels
        # Made before the other layers, because the initial weights depend on the order; registered after them.
        shortcut = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Sequential(_convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        if made.bottleneck:
            width = channels * made.width // 64 * made.groups
            self.conv1, self.bn1 = _convolution(inputs, width, 1), nn.BatchNorm2d(width)
            self.conv2, self.bn2 = _convolution(width, width, 3, stride, made.groups), nn.BatchNorm2d(width)
            self.conv3, self.bn3 = _convolution(width, outputs, 1), nn.BatchNorm2d(outputs)
        else:
            self.conv1, self.bn1 = _convolution(inputs, channels, 3, stride), nn.BatchNorm2d(channels)
            self.conv2, self.bn2 = _convolution(channels, channels, 3), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut
        self._is_bottleneck = made.bottleneck

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self._is_bottleneck:
            y = self.bn3(self.conv3(self.relu(y)))
        y += x if self.downsample is None else self.downsample(x)
        activated: Tensor = self.relu(y)
        return activated


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False)


def resnet_layers(name: str) -> nn.Sequential:
    """Build the layers of a ResNet without its classifier, by torchvision's names of them.

    The initial weights are drawn from torch's global generator, in torchvision's order: the same seed gives the same
    weights as torchvision. On the meta device, nothing is drawn.

    Args:
        name: a name of torchvision, such as `resnet50`, `resnext101_64x4d` or `wide_resnet50_2`.

    Returns:
        Layers that turn (N, 3, H, W) images into (N, features, 1, 1), to be called one after the other.
    """
    made = _ARCHITECTURES[name]
    layers: dict[str, nn.Module] = {
        "conv1": _convolution(3, _STEM, 7, 2),
        "bn1": nn.BatchNorm2d(_STEM),
        "relu": nn.ReLU(inplace=True),
        "maxpool": nn.MaxPool2d(3, 2, padding=1),
    }
    inputs = _STEM
    for stage, count in enumerate(made.blocks):
        channels, blocks = _STEM << stage, []
        for number in range(count):
            blocks.append(_Block(inputs, channels, 2 if stage and not number else 1, made))
            inputs = channels * 4 if made.bottleneck else channels
        layers[f"layer{stage + 1}"] = nn.Sequential(*blocks)
    layers["avgpool"] = nn.AdaptiveAvgPool2d((1, 1))
    network = nn.Sequential()
    for key, layer in layers.items():
        network.add_module(key, layer)
    _initialize(network, inputs)
    return network


def _initialize(network: nn.Module, features: int) -> None:
    """Draw the weights of all convolutions: He et al., "Delving Deep into Rectifiers" (arXiv 1502.01852)."""
    if torch.empty(()).is_meta:
        return
    nn.Linear(features, _CLASSES)  # torchvision's classifier takes its random numbers first
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
