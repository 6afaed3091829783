"""Randomly damaged config files: each is read, or refused with the mistakes and their places."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from jobs.plan.cluster import Cluster
from tests.records.damage import JUNK
from trex.config import Config, ConfigError, load

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TRIES = 1000
#: What a slip of the hand or another program may put into a line.
_PARTS = ("\t", ": ", "- ", "&a ", "*a", "!!python/name:os.system ", "|", ">", "{", "[", "}", "#", "'", '"', "? ", "%")


def random_damage(chance: random.Random, good: bytes) -> bytes:
    """Return the file with other bytes, lines in another place, other values, or without its end."""
    lines = good.splitlines(keepends=True)
    for _ in range(chance.choice([1, 1, 2, 8])):
        at = chance.randrange(len(lines))
        kind = chance.randrange(6)
        if kind == 0:
            lines[at] = lines[at].replace(b" ", b"", 1)
        elif kind == 1:
            lines.insert(chance.randrange(len(lines)), lines[at])
        elif kind == 2:
            lines[at] = lines[at].partition(b":")[0] + f": {chance.choice(JUNK)}\n".encode("utf-8", "surrogatepass")
        elif kind == 3:
            cut = chance.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:cut] + chance.choice(_PARTS).encode() + lines[at][cut:]
        elif kind == 4:
            changed = bytearray(lines[at])
            if changed:
                changed[chance.randrange(len(changed))] = chance.randrange(256)
            lines[at] = bytes(changed)
        else:
            lines[at] = lines[at][: chance.randrange(len(lines[at]) + 1)]
    return b"".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize(("good", "cls"), [("trex_star.yaml", Config), ("clusters/slurm.yaml", Cluster)])
def test_randomly_damaged_config_is_read_or_refused_with_its_place(tmp_path: Path, good: str, cls: type) -> None:
    chance = random.Random(0)
    content = (CONFIGS / good).read_bytes()
    path = tmp_path / "damaged.yaml"
    refused = 0
    for number in range(TRIES):
        path.write_bytes(random_damage(chance, content))
        began = time.process_time()
        try:
            load(path, cls)
        except ConfigError as error:
            refused += 1
            assert error.mistakes
            assert all(str(mistake).startswith(str(path)) for mistake in error.mistakes), str(error)
        assert time.process_time() - began < 1.0, f"try {number}"
    assert TRIES / 10 < refused < TRIES
