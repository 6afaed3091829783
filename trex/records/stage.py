"""The stages of a run, in the order in which `trex run` does them."""

from __future__ import annotations

from typing import Literal

Stage = Literal["train", "extract", "probe", "report"]
STAGES: tuple[Stage, ...] = ("train", "extract", "probe", "report")
