"""120 photographs of ImageNet's usual size, cut from photographs that Debian packages ship. Nothing is downloaded.

The packages are mate-backgrounds and plasma-workspace-wallpapers (tools/prerequisites.py --photographs). From each of
24 photographs, five different regions are scaled to 500 x 375 pixels and saved as JPEG with quality 98, which
gives files of 80 kB on average (ImageNet: about 100).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

WALLPAPERS = Path("/usr/share/wallpapers")
BACKGROUNDS = Path("/usr/share/backgrounds/mate/nature")
NAMES = (
    "Autumn", "BytheWater", "ColdRipple", "ColorfulCups", "DarkestHour", "EveningGlow", "FallenLeaf", "Grey",
    "OneStandsOut", "PastelHills", "Path", "summer_1am",
)  # fmt: skip
REGIONS = 5
SIZE = (500, 375)
QUALITY = 98


def sources() -> list[Path]:
    """The photographs in the packages."""
    found = sorted(BACKGROUNDS.glob("*.jpg"))
    for name in NAMES:
        images = (path for path in (WALLPAPERS / name / "contents" / "images").glob("*.jpg") if not path.is_symlink())
        found.append(max(images, key=lambda path: path.stat().st_size))
    return found


def photographs(folder: Path) -> list[Path]:
    """Write the photographs as JPEG files. Returns their paths.

    Raises:
        SystemExit: if a package is not installed.
    """
    try:
        found = sources()
    except ValueError:
        found = []
    if len(found) < 2 * len(NAMES):
        sys.exit("the photographs of Debian are missing: python3 tools/prerequisites.py --photographs")
    rng = np.random.default_rng(0)
    paths = []
    for source in found:
        with Image.open(source) as opened:
            image = opened.convert("RGB")
        for region in range(REGIONS):
            share = rng.uniform(0.35, 0.7)
            width = int(min(image.width, image.height * 4 / 3) * share)
            height = width * 3 // 4
            left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
            paths.append(folder / f"{source.stem if source.parent == BACKGROUNDS else source.parts[4]}-{region}.jpg")
            cut = image.resize(SIZE, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height))
            cut.save(paths[-1], quality=QUALITY)
    return paths
