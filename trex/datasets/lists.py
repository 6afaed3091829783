"""Data sets whose official split is text files: Aircraft, DTD, Pets, Food-101, SUN397. Images in the lists' order."""

from __future__ import annotations

from pathlib import Path

from trex.datasets.layout import find_base, find_file, label_of, ranks_of, read_names, read_words
from trex.datasets.registry import Counts, Listing, dataset
from trex.errors import UserError

Listed = tuple[list[str], list[int]]


@dataset("aircraft", Counts(classes=100, trainval=6667, test=3333))
def read_aircraft(folder: Path) -> Listing:
    """FGVC-Aircraft 2013b, variants: `images_variant_{trainval,test}.txt`; labels by `variants.txt`."""
    inner = ("data", "fgvc-aircraft-2013b/data", "fgvc-aircraft-2013b")
    base = find_base(folder, ("images_variant_trainval.txt", "variants.txt", "images"), inner)
    classes = read_names(base / "variants.txt")

    def read(name: str) -> Listed:
        path, ranks = base / name, ranks_of(classes)
        rows = [line.partition(" ") for line in read_names(path)]
        return [f"images/{image}.jpg" for image, _, _ in rows], [label_of(label, ranks, path) for _, _, label in rows]

    return Listing(
        tuple(classes), read("images_variant_trainval.txt"), read("images_variant_test.txt"), folder=base, listed=True
    )


@dataset("dtd", Counts(classes=47, trainval=3760, test=1880))
def read_dtd(folder: Path) -> Listing:
    """Describable Textures, first split: `train1` and `val1` are trainval; labels by sorted class names."""
    base = find_base(folder, ("labels/train1.txt", "images"), ("dtd", "dtd/dtd"))
    names = {part: read_names(base / "labels" / f"{part}1.txt") for part in ("train", "val", "test")}
    classes = sorted({name.partition("/")[0] for part in names.values() for name in part})
    trainval, test = names["train"] + names["val"], names["test"]
    ranks = ranks_of(classes)

    def labeled(listed: list[str]) -> Listed:
        return [f"images/{name}" for name in listed], [ranks[name.partition("/")[0]] for name in listed]

    return Listing(tuple(classes), labeled(trainval), labeled(test), folder=base, listed=True)


@dataset("pets", Counts(classes=37, trainval=3680, test=3669))
def read_pets(folder: Path) -> Listing:
    """Oxford-IIIT Pets: `annotations/{trainval,test}.txt`, lines `name class species breed`, classes from 1."""
    base = find_base(folder, ("annotations/trainval.txt", "images"), ("oxford-iiit-pet",))
    names: dict[int, str] = {}

    def read(part: str) -> Listed:
        path = base / "annotations" / f"{part}.txt"
        images, labels = [], []
        for words in read_words(path):
            if words[0].startswith("#"):
                continue
            if len(words) < 2 or not words[1].isdecimal() or int(words[1]) < 1:
                raise UserError(f"{path}: has the line {' '.join(words)!r}: expected a name and a class number")
            names.setdefault(int(words[1]) - 1, words[0].rpartition("_")[0])
            images.append(f"images/{words[0]}.jpg")
            labels.append(int(words[1]) - 1)
        return images, labels

    trainval, test = read("trainval"), read("test")
    classes = tuple(names.get(label, str(label + 1)) for label in range(max(names, default=-1) + 1))
    return Listing(classes, trainval, test, folder=base, listed=True)


@dataset("food101", Counts(classes=101, trainval=75750, test=25250))
def read_food101(folder: Path) -> Listing:
    """Food-101: `meta/{train,test}.txt`, lines `class/number`; labels by sorted class names."""
    base = find_base(folder, ("meta/train.txt", "images"), ("food-101", "food-101/food-101"))
    names = {part: read_names(base / "meta" / f"{part}.txt") for part in ("train", "test")}
    classes = sorted({name.partition("/")[0] for part in names.values() for name in part})
    ranks = ranks_of(classes)

    def labeled(listed: list[str]) -> Listed:
        return [f"images/{name}.jpg" for name in listed], [ranks[name.partition("/")[0]] for name in listed]

    return Listing(tuple(classes), labeled(names["train"]), labeled(names["test"]), folder=base, listed=True)


@dataset("sun397", Counts(classes=397, trainval=19850, test=19850))
def read_sun397(folder: Path) -> Listing:
    """SUN397, first split: `Training_01.txt`, `Testing_01.txt`; labels by `ClassName.txt`.

    The lists' lines begin with a slash, and classes nest: `/a/apartment_building/outdoor/sun_….jpg`. The lists come
    in an archive of their own, so they may lie beside the images' folder or in it.
    """
    base = find_base(folder, ("a", "b"), ("SUN397",))
    places = [folder, base, folder / "Partitions", base / "Partitions"]
    listed_classes = find_file(["ClassName.txt"], places)
    classes = [line.strip("/") for line in read_names(listed_classes)]
    ranks = ranks_of(classes)

    def read(name: str) -> Listed:
        path = find_file([name], places)
        images = [line.lstrip("/") for line in read_names(path)]
        return images, [label_of(image.rpartition("/")[0], ranks, path) for image in images]

    return Listing(tuple(classes), read("Training_01.txt"), read("Testing_01.txt"), folder=base, listed=True)
