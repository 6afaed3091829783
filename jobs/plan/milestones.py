"""Finds the missing work at milestones: `probe.at_datasets`, extracted and probed for each milestone checkpoint.

The milestones are read from the checkpoints on disk, so this gives the same answer at any time, however late: while the
training runs, after a preemption, or after its end. The results decide whether a milestone is done, because its
features may have been deleted. The last epoch is none of the milestones: its results are those of the final encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from jobs.plan.spec import Item, Stage, TaskSpec
from jobs.plan.stages import Plan, is_complete, is_probed, items, refuse_other_features, results_of
from trex.config.schema import Config
from trex.features.origin import origin
from trex.records.manifest import milestones
from trex.records.probe_result import weights_of
from trex.records.run_dir import RunDir
from trex.records.stage import STAGES


def with_milestones(todo: Plan, run: RunDir, config: Config) -> Plan:
    """Add the missing work at the milestones to a plan, before the other work of the same stage.

    Raises:
        UserError: as `missing`.
    """
    more = missing(run, config)
    by_stage: dict[Stage, TaskSpec] = {spec.stage: spec for spec in todo.specs}
    for stage, found in more.items():
        others = by_stage[stage].items if stage in by_stage else ()
        by_stage[stage] = TaskSpec(stage, str(run.root), (*found, *others))
    specs = tuple(by_stage[stage] for stage in STAGES if stage in by_stage)
    return Plan(specs, tuple(stage for stage in todo.done if stage not in more))


def missing(run: RunDir, config: Config) -> Mapping[Stage, tuple[Item, ...]]:
    """Return the missing extractions and probes of all milestones on disk, earlier milestones first.

    Empty if `probe.at` does not ask for milestones. Stages without missing work are left out.

    Raises:
        UserError: if a milestone has features of another checkpoint, transform or dtype, which are never mixed.
    """
    extractions, probes = [], []
    for epoch in epochs(run, config):
        at, wanted = run.at(epoch), at_milestones(config)
        refuse_other_features(at, wanted, to_be_trained=False)
        open_probes = [item for item in probes_at(config, epoch) if not is_evaluated(at, wanted, item)]
        datasets = dict.fromkeys(item.dataset for item in open_probes)
        extractions += [
            item for item in extractions_at(config, epoch)
            if item.dataset in datasets and not is_complete(at, wanted, "extract", item)
        ]  # fmt: skip
        probes += open_probes
    found: dict[Stage, tuple[Item, ...]] = {"extract": tuple(extractions), "probe": tuple(probes)}
    return {stage: items for stage, items in found.items() if items}


def epochs(run: RunDir, config: Config) -> list[int]:
    """Return the epochs of the milestone checkpoints on disk, ascending; empty if `probe.at` does not ask for them."""
    return milestones(run.checkpoints) if config.probe.at == "milestones" else []


def at_milestones(config: Config) -> Config:
    """Return the config with the datasets that are evaluated at milestones."""
    return replace(config, extract=replace(config.extract, datasets=config.probe.at_datasets))


def extractions_at(config: Config, epoch: int) -> list[Item]:
    """Return the extractions of a milestone: one item per dataset."""
    return [replace(item, milestone=epoch) for item in items("extract", at_milestones(config))]


def probes_at(config: Config, epoch: int) -> list[Item]:
    """Return the probes of a milestone: one item per dataset and job."""
    return [replace(item, milestone=epoch) for item in items("probe", at_milestones(config))]


def is_evaluated(at: RunDir, config: Config, item: Item) -> bool:
    """Return whether all results of a milestone's item exist and were made from its checkpoint.

    If its features were deleted, the label of their weights, with the digest of the checkpoint, is compared instead.
    """
    if not is_probed(at, config, item):
        return False
    if is_complete(at, config, "extract", item):
        return True
    wanted = origin(at, config).weights
    results = [at.probe(item.dataset, kind, seed) for kind, seed in results_of(config, item)]
    return all(weights_of(path) == wanted for path in results)


def delete_features(at: RunDir, dataset: str) -> None:
    """Delete the features of a dataset at a milestone. Two jobs may do so at the same time."""
    files: list[Path] = [at.features(dataset, split) for split in ("trainval", "test")]
    for path in files:
        path.unlink(missing_ok=True)
