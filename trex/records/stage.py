"""The stages of a run, in their order: what `trex run` does one after the other."""

from __future__ import annotations

from typing import Literal

Stage = Literal["train", "extract", "probe", "report"]
STAGES: tuple[Stage, ...] = ("train", "extract", "probe", "report")
