"""The probes that a config asks for, by name. Imports nothing heavy: submitting asks it."""

from __future__ import annotations

from trex.config.schema import ProbeConfig


def probe_kinds(config: ProbeConfig) -> tuple[str, ...]:
    """Names of the probes: the protocol on all images, with few a class (`exact-5shot`), k-NN (`knn20`)."""
    few = [f"{config.protocol}-{shots}shot" for shots in config.shots]
    return (config.protocol, *few, *([f"knn{config.neighbours}"] if config.neighbours else []))
