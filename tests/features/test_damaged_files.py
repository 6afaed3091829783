"""Feature files with random damage: each is read, or refused with a UserError that names the file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trex.features.store import write_features
from trex.records.feature_provenance import FeatureProvenance

COUNT = 1200

#: Runs in its own process, because a damaged file may crash the HDF5 library or make it hang.
CHILD = """
import random, sys
from pathlib import Path
from trex.errors import UserError
from trex.features.store import open_features, read_attributes

content, target, count = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]), int(sys.argv[3])
chance = random.Random(0)
texts = [content.find(text) for text in (b"OHDR", b"FRHP", b"FHDB", b"BTHD", b"BTLF", b"encoder_digest")]
places = [place for place in texts if place >= 0]
outcomes = {"read": 0, "refused": 0}
for number in range(count):
    damaged = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 8])):
        place = chance.choice([chance.randrange(len(damaged)), chance.choice(places) + chance.randrange(400)])
        damaged[place % len(damaged)] = chance.randrange(256)
    if chance.random() < 0.1:
        del damaged[chance.randrange(len(damaged)):]
    target.write_bytes(damaged)
    print(number, flush=True)
    for read in (open_features, read_attributes):
        try:
            read(target)
            outcomes["read"] += 1
        except UserError as error:
            assert str(target) in str(error), error
            outcomes["refused"] += 1
print(outcomes["read"], outcomes["refused"])
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    provenance = FeatureProvenance(
        "run", "pets", "test", "s" * 64, "e" * 64, "epoch-0001", "resize", "float32", True, {"torch": "2.10"}
    )
    features, labels = np.ones((3, 4), np.float32), np.arange(3) % 2
    path = tmp_path / "good.h5"
    write_features(path, [features], features.shape, labels, ["a.jpg", "b.jpg", "c.jpg"], ("cat", "dog"), provenance)
    return path


def test_randomly_damaged_file_is_read_or_refused_with_its_name(good: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(good), str(tmp_path / "damaged.h5"), str(COUNT)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, f"input {done.stdout.splitlines()[-1:]}: {done.stderr[-2000:]}"
    read, refused = map(int, done.stdout.splitlines()[-1].split())
    assert read + refused == 2 * COUNT
    assert min(read, refused) > COUNT / 4, "the damage must lead to both outcomes"
