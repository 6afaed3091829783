"""Writes a recipe for a folder of images: the settings that depend on how many and how large they are, with reasons."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trex.config.schema import CropsConfig, TrainConfig
from trex.datasets.imagefolder import read_image_folder
from trex.datasets.registry import known
from trex.errors import UserError
from trex.wording import counted

#: Images of which the size is read, spread evenly over the list.
_LOOKED_AT = 32
#: A training should have about this many steps; fewer images get more epochs.
_STEPS = 20_000
_MOST_EPOCHS = 800
_FULL_SIZE = 160  #: pixels of the shorter side from which crops of 224 and 96 pixels make sense
_SMALL = 20_000  #: images up to which a ResNet18 is proposed


@dataclass(frozen=True)
class Images:
    """What the recipe depends on."""

    folder: Path
    classes: int
    train: int  #: images
    test: int  #: images
    side: int  #: median of the shorter sides, pixels

    @classmethod
    def of(cls, folder: Path) -> Images:
        """List a folder of images and read the sizes of a few. Raises UserError if it is not an image folder."""
        from trex.images.decode import read_rgb

        if not folder.is_dir():
            raise UserError(f"{folder}: expected a folder with train/ and val/, and in each one folder per class")
        listing = read_image_folder(folder)
        names = listing.trainval.names
        looked_at = [names[len(names) * i // _LOOKED_AT] for i in range(min(_LOOKED_AT, len(names)))]
        sides = sorted(min(read_rgb(folder / name).shape[:2]) for name in looked_at)
        return cls(folder, len(listing.classes), len(names), len(listing.test.names), sides[len(sides) // 2])


def recipe(name: str, images: Images) -> str:
    """The text of a recipe named `name`: YAML with comments."""
    dataset = name if name not in known() else f"{name}_images"  # not the official dataset of that name
    batch = _batch(images.train)
    steps = images.train // batch
    default = TrainConfig().epochs
    epochs = min(max(default, -(-_STEPS // steps // 10) * 10), _MOST_EPOCHS)
    lines = [
        f"# t-ReX* on the images in {images.folder}: {counted(images.classes, 'class')},",
        f"# {counted(images.train, 'training image')} and {counted(images.test, 'test image')}, "
        f"about {images.side} pixels high.",
        f"# check first:  trex check {name}",
        f"# command:      trex run {name}                (train, extract, probe, report; --cluster NAME for Slurm)",
        "# All other settings have their defaults; docs/config.md explains each.",
        f"name: {name}",
        "data:",
        f"  dataset: {dataset}",
        f"  folders: {{{dataset}: {_quoted(str(images.folder))}}}",
        "train:",
        f"  epochs: {epochs}{_spaced(f'{steps} steps each, {epochs * steps:,} in total')}",
        f"  batch_size: {batch}{_spaced('images per step over all GPUs')}",
        "  # start: encoder.pth  # weights to begin with, which helps with few images: of torchvision, timm or t-ReX",
        *_crops(images.side),
        *_model(images, batch),
        "extract:",
        f"  datasets: [{dataset}]{_spaced('on which the probes measure the features; add others')}",
        *_evaluation(images.side),
    ]
    return "\n".join(lines) + "\n"


def _spaced(comment: str) -> str:
    return f"  # {comment}"


def _batch(images: int) -> int:
    """A power of two, at most the default, and at most an eighth of the images."""
    batch = TrainConfig().batch_size
    while batch > 2 and batch * 8 > images:
        batch //= 2
    return batch


def _crops(side: int) -> list[str]:
    if side >= _FULL_SIZE:
        return []
    large, small = _side(side), _side(side // 2)
    return [
        f"crops:  # the images are small: larger crops than {side} pixels have no more detail",
        f"  global_size: {large}",
        f"  local_size: {small}",
    ]


def _evaluation(side: int) -> list[str]:
    return [] if side >= _FULL_SIZE else [f"  resize: {_side(side)}", f"  crop: {_side(side)}"]


def _side(pixels: int) -> int:
    """A multiple of eight, at least 16."""
    return max(min(pixels, CropsConfig().global_size) // 8 * 8, 16)


def _model(images: Images, batch: int) -> list[str]:
    lines = []
    if images.train < _SMALL:
        lines += ["model:", "  encoder: resnet18  # a small encoder for few images; the default is resnet50"]
    bank = 8192
    while bank > max(images.train, batch):
        bank //= 2
    if bank < 8192:
        lines += [
            "method:",
            f"  memory_bank_size: {bank}{_spaced('features for the class means: at most one per image')}",
        ]
    return lines


def _quoted(text: str) -> str:
    """The text in double quotes for YAML."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
