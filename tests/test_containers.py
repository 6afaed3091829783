"""The container definitions agree with each other and with the checkout. They cannot be built in a test."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "tools" / "containers" / "Dockerfile").read_text()
APPTAINER = (ROOT / "tools" / "containers" / "trex.def").read_text()


def test_both_definitions_install_the_same_on_the_same_base() -> None:
    installs = re.findall(r"^RUN (pip .*)$", DOCKERFILE, re.MULTILINE)
    assert len(installs) == 2
    assert re.findall(r"^    (pip .*)$", APPTAINER, re.MULTILINE) == installs
    [base] = re.findall(r"^FROM (.*)$", DOCKERFILE, re.MULTILINE)
    assert re.findall(r"^From: (.*)$", APPTAINER, re.MULTILINE) == [base]


def test_both_definitions_copy_the_same_existing_files() -> None:
    copied = re.findall(r"^COPY (.*) /opt/trex/\S*$", DOCKERFILE, re.MULTILINE)
    names = sorted(name for line in copied for name in line.split())
    assert all((ROOT / name).exists() for name in names)
    assert sorted(re.findall(r"^    (\S+) /opt/trex/\1$", APPTAINER, re.MULTILINE)) == names
    allowed = (ROOT / "tools" / "containers" / "Dockerfile.dockerignore").read_text()
    assert sorted(re.findall(r"^!(.*)$", allowed, re.MULTILINE)) == names
