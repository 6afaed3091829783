"""The probes that a config asks for, by name, and what their results are made from. Imports nothing heavy: submitting
asks it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trex.config.schema import ProbeConfig
from trex.datasets.record import Fit
from trex.datasets.registry import record
from trex.files import read_json

if TYPE_CHECKING:
    from trex.features.store import About

#: Version of the exact protocol: another one makes results anew.
SOLVER = 2


def probe_kinds(config: ProbeConfig) -> tuple[str, ...]:
    """Names of the probes: the protocol on all images, with few a class (`exact-5shot`), k-NN (`knn20`)."""
    few = [f"{config.protocol}-{shots}shot" for shots in config.shots]
    return (config.protocol, *few, *([f"knn{config.neighbors}"] if config.neighbors else []))


def made_from(config: ProbeConfig, kind: str, about: About, digests: tuple[str, str]) -> dict[str, Any]:
    """What identifies the features of a dataset, and the way in which a kind of probe treats them; a result of
    something else is made anew.

    Args:
        config: the probes' settings.
        kind: name of the probe.
        about: what made the features of trainval.
        digests: SHA-256 of the features of trainval and test.
    """
    normalized = is_normalized(config, about.dataset) or kind.startswith("knn")
    identity = {
        "trainval_digest": digests[0], "test_digest": digests[1], "encoder_digest": about.encoder_digest,
        "weights": about.weights, "dtype": about.dtype, "normalized": normalized,
    }  # fmt: skip
    if kind.startswith("published"):
        return {**identity, "fit": fitted_by(config, about.dataset)}
    return {**identity, "solver": SOLVER} if kind.startswith("exact") else identity


def is_result_of(path: Path, made_from: dict[str, Any]) -> bool:
    """Whether `path` is a readable probe result with just this origin."""
    try:
        return bool(read_json(path)["features"] == made_from)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def fitted_by(config: ProbeConfig, dataset: str) -> Fit:
    """Which of its two searches the published protocol does on a dataset."""
    return "SGD" if config.sgd.get(dataset, record(dataset).published_fit == "SGD") else "L-BFGS"


def is_normalized(config: ProbeConfig, dataset: str) -> bool:
    """Whether a dataset's features are L2-normalized for its linear probes: what the config says, else its record."""
    return config.normalize.get(dataset, record(dataset).normalized)
