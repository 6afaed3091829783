"""Estimates the memory of the probes before any features exist, and compares it with the cluster file."""

from __future__ import annotations

from collections.abc import Iterable

from jobs.plan.cluster import Cluster
from trex.config.schema import Config
from trex.errors import UserError
from trex.features.origin import feature_dim
from trex.probing.cost import exact_cost
from trex.probing.kind import kinds_of
from trex.probing.memory import Size, choices, solver_memory
from trex.probing.treatment import Treatment
from trex.wording import counted

#: Hours; the estimate says nothing about less, which is spent in other work than products.
_LITTLE = 0.5


def require_memory(config: Config, cluster: Cluster, datasets: Iterable[str] | None = None) -> float:
    """Return the gigabytes that the largest probe needs; 0 if no dataset has official counts.

    Args:
        config: the config of the run.
        cluster: the cluster file.
        datasets: the datasets to be probed; None: all of the config.

    Raises:
        UserError: if `probe.memory_gb` is too small for a probe, if the cluster file requests less memory than a probe
            needs, or if the encoder does not exist.
    """
    largest, largest_set = 0.0, ""
    for name in config.extract.datasets if datasets is None else datasets:
        size = _size(name, config)
        if size is None:
            continue
        for kind in kinds_of(config.probe, name):
            try:
                used = kind.used_bytes(size, Treatment.of(name, config.probe), config.probe.memory_gb * 1e9) / 1e9
            except UserError as error:
                raise UserError(f"memory: probe {kind.name} of {name}: {error}") from error
            if used > largest:
                largest, largest_set = used, name
    asked = cluster.probe.memory_gb
    if asked and largest > asked:
        least = min(config.probe.memory_gb, asked)
        raise UserError(
            f"memory: probes of {largest_set} take up to {largest:.1f} GB (probe.memory_gb is "
            f"{config.probe.memory_gb:g}), but the cluster file asks for {asked} GB: raise memory_gb of its stage "
            f"probe, or set probe.memory_gb={least:g}, which is slower"
        )
    return largest


def probe_cost(config: Config, cluster: Cluster) -> str:
    """Return how long the `exact` probes take, and the memory that makes the slowest of them fastest; "" if unknown.

    Raises:
        UserError: if `probe.memory_gb` is too small, or the encoder does not exist.
    """
    gpu = cluster.probe.gpus_per_node > 0 and config.probe.device != "cpu"
    limit, seeds, total, longest = config.probe.memory_gb * 1e9, config.probe.seeds, 0.0, ("", 0.0)
    for name in config.extract.datasets:
        size = _size(name, config)
        if size is None or not any(kind.name == "exact" for kind in kinds_of(config.probe, name)):
            continue
        hours = exact_cost(size, limit, gpu=gpu).hours(seeds)
        total += hours
        if hours > longest[1]:
            longest, largest = (name, hours), size
    if not longest[0]:
        return ""
    unit = "GPU-hours" if gpu else "core-hours"
    if total < _LITTLE:
        return f"{counted(seeds, 'seed')} of exact take less than {_LITTLE} {unit}"
    text = f"{counted(seeds, 'seed')} of exact take about {total:.2g} {unit}, {longest[0]} {longest[1]:.2g} of them"
    fastest = choices(largest)[0].bytes
    if not gpu and solver_memory(largest, limit).bytes != fastest:
        text += f" (fastest with probe.memory_gb={-(-fastest // 10**9)})"
    return text


def _size(name: str, config: Config) -> Size | None:
    from trex.datasets.registry import find

    try:
        counts = find(name, config.data).counts
    except UserError:
        return None  # the check of the dataset reports this
    if counts is None:
        return None
    return Size(counts.trainval, counts.test, feature_dim(config), counts.classes)
