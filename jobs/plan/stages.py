"""Finds the missing work of a run, from its files alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.plan.spec import STAGES, Item, Stage, TaskSpec
from trex.config.schema import WEIGHTS_OF_RUN, Config, ProbeConfig
from trex.datasets.registry import folder_of, made_without_files, place, record
from trex.errors import UserError
from trex.probing.kind import kinds_of, left_out
from trex.probing.treatment import Treatment
from trex.records.manifest import checkpoint_folders, newest_manifest
from trex.records.probe_result import is_made_from, is_result
from trex.records.run_dir import RunDir


@dataclass(frozen=True)
class Plan:
    """The work that is missing, in order, and the stages that are done."""

    specs: tuple[TaskSpec, ...]
    done: tuple[Stage, ...]


def plan(run: RunDir, config: Config, stages: Sequence[Stage]) -> Plan:
    """Return the missing work of `stages`, in order. Earlier stages that are not in `stages` are not added.

    Raises:
        UserError: if feature files exist that other weights or settings made. They are never mixed with new ones.
    """
    specs, done = [], []
    wants_training = config.extract.weights == "trained" or tuple(stages) != STAGES  # or asked for by name
    trains = "train" in stages and wants_training and not is_trained(run)
    if "extract" in stages:
        refuse_other_features(run, config, to_be_trained=trains and config.extract.weights == "trained")
    extracted: set[str] = set()
    for stage in (one for one in STAGES if one in stages):
        missing: tuple[Item, ...] = ()
        if stage == "extract":
            missing = tuple(item for item in items(stage, config) if not is_complete(run, config, stage, item))
            extracted = {item.dataset for item in missing}
        elif stage == "probe":
            missing = tuple(
                item for item in items(stage, config) if item.dataset in extracted or not is_probed(run, config, item)
            )
        if missing or stage == "report" or (stage == "train" and trains):
            specs.append(TaskSpec(stage, str(run.root), missing))
        else:
            done.append(stage)
    return Plan(tuple(specs), tuple(done))


def stages_of(name: str) -> tuple[Stage, ...]:
    """Return the stages of a command: all of them for `run`."""
    return STAGES if name == "run" else tuple(stage for stage in STAGES if stage == name)


def refuse_other_features(run: RunDir, config: Config, to_be_trained: bool) -> None:
    """Raise UserError if a feature file exists that other weights or settings made.

    This check is fast. The job itself also compares the images and the values of the weights.
    """
    there = [path for name in config.extract.datasets for path in _feature_files(run, name) if path.exists()]
    if not there:
        return
    from trex.features.index import other_features, read_index
    from trex.features.origin import origin

    found = {path: read_index(path).provenance for path in there}
    wanted = origin(run, config)
    if to_be_trained:
        wanted = replace(wanted, weights="the training, when it has finished")
    elif config.extract.weights == "trained" and any(made_by.weights != wanted.weights for made_by in found.values()):
        wanted = origin(run, config, read_states=True)  # if the newest checkpoint is damaged, the job uses an older one
    for path, made_by in found.items():
        if differences := wanted.differences(made_by):
            raise other_features(path, differences)


def is_probed(run: RunDir, config: Config, item: Item) -> bool:
    """Return whether all results of an item exist and were made from the present features.

    Deleted features do not matter: the results then count as they are.
    """
    if not is_complete(run, config, "probe", item):
        return False
    files = _feature_files(run, item.dataset)
    if not all(path.exists() for path in files):
        return True
    from trex.features.index import read_index

    try:
        indices = [read_index(path) for path in files]
    except UserError:
        if all(path.exists() for path in files):
            raise
        return True  # another job has deleted them in the meantime
    treatment = Treatment.of(item.dataset, config.probe)
    kinds = kinds_of(config.probe, item.dataset)
    wanted = {kind.name: kind.provenance(treatment, *indices) for kind in kinds}
    return all(
        is_made_from(run.probe(item.dataset, kind, seed), wanted[kind]) for kind, seed in results_of(config, item)
    )


def items(stage: Stage, config: Config) -> tuple[Item, ...]:
    """Return the items of a stage: its datasets, and for probes one item per dataset and job."""
    if stage == "extract":
        return tuple(Item(name) for name in config.extract.datasets)
    if stage == "probe":
        names = config.extract.datasets
        return tuple(Item(name, seeds) for name in names for seeds in _seeds_of_jobs(config.probe, name))
    return ()


def is_complete(run: RunDir, config: Config, stage: Stage, item: Item) -> bool:
    """Return whether all files of an item exist: the features of both splits, or all results of its probes.

    Of each result only the start and the end are checked (`is_result`), so that this is fast.
    """
    if stage == "extract":
        return all(path.exists() for path in _feature_files(run, item.dataset))
    return all(is_result(run.probe(item.dataset, kind, seed)) for kind, seed in results_of(config, item))


def damaged_results(run: RunDir, config: Config, item: Item) -> list[Path]:
    """Return the files in the place of results of an item's probes that are no results (`is_result`)."""
    if not run.probes(item.dataset).exists():  # with hundreds of runs, looking for each file takes long
        return []
    paths = [run.probe(item.dataset, kind, seed) for kind, seed in results_of(config, item)]
    return [path for path in paths if path.exists() and not is_result(path)]


def _feature_files(run: RunDir, dataset: str) -> tuple[Path, Path]:
    return run.features(dataset, "trainval"), run.features(dataset, "test")


def results_of(config: Config, item: Item) -> list[tuple[str, int]]:
    """Return the kind and seed of each probe of an item."""
    seeds = item.seeds or range(config.probe.seeds)
    kinds = kinds_of(config.probe, item.dataset)
    return [(kind.name, seed) for kind in kinds for seed in seeds if kind.runs(seed)]


def _seeds_of_jobs(config: ProbeConfig, dataset: str) -> list[tuple[int, ...]]:
    kinds = kinds_of(config, dataset)
    seeds = [seed for seed in range(config.seeds) if any(kind.runs(seed) for kind in kinds)]
    share_work = all(kind.seeds_share_work for kind in kinds)
    size = config.seeds_per_job or (len(seeds) if share_work else 1)
    if size >= len(seeds):
        return [()]
    return [tuple(seeds[start : start + size]) for start in seeds[::size]]


def require_files(run: RunDir, config: Config, stage: str) -> None:
    """Raise UserError if a weights or mapping file that the stage reads does not exist, so that no job waits in vain.

    For `run`, all stages are checked. A training that has saved a checkpoint does not read its file again.
    """
    wanted: dict[str, str | None] = {}
    if stage in ("extract", "run") and config.extract.weights not in WEIGHTS_OF_RUN:
        wanted |= {"extract.weights": config.extract.weights, "extract.key_map": config.extract.key_map}
    if stage in ("train", "run") and config.train.start and not checkpoint_folders(run.checkpoints):
        wanted |= {"train.start": config.train.start, "train.key_map": config.train.key_map}
    for setting, path in wanted.items():
        if path is not None and not Path(path).is_file():
            words = f"; expected {', '.join(WEIGHTS_OF_RUN)} or a file" if setting == "extract.weights" else ""
            raise UserError(f"{setting}: no such file: {path}{words}")


def require_one_class(config: Config, stage: str) -> None:
    """Raise UserError if a stage, or `run`, trains on a dataset whose images may have several classes."""
    trains = stage == "train" or (stage == "run" and config.extract.weights == "trained")
    if trains and record(config.data.dataset).multi_label:
        raise UserError(
            f"data.dataset is {config.data.dataset}: its images may have several classes, and training needs one; "
            f"choose another dataset"
        )


def require_kinds(config: Config, stage: str) -> None:
    """Raise UserError if a stage, or `run`, probes a dataset on which no kind in the config can be fitted.

    Where only some of them cannot be fitted, these are left out.
    """
    for name in config.extract.datasets if stage not in ("train", "extract", "report") else ():
        if not kinds_of(config.probe, name):
            raise UserError(
                f"probe.kinds: {left_out(config.probe, name)}; add exact to probe.kinds, or leave {name} out of "
                f"extract.datasets"
            )


def require_gpu(config: Config, stage: Stage, gpus: Callable[[], int], remedy: str) -> None:
    """Raise UserError if a setting of a stage asks for a GPU and its jobs have none.

    Args:
        config: the config of the run.
        stage: the stage.
        gpus: returns the number of GPUs per node of its jobs; called only if a setting asks for one.
        remedy: why they have none and what to do, as the end of a sentence.
    """
    asked = {"train": ("crops.device", config.crops.device), "probe": ("probe.device", config.probe.device)}
    setting, device = asked.get(stage, ("", ""))
    if device == "cuda" and not gpus():
        raise UserError(f"{setting} is cuda, but {remedy}, or set {setting}=auto")


def missing_data(config: Config, specs: Sequence[TaskSpec]) -> dict[str, Path]:
    """Return the datasets of `specs` that are not on this machine, as a folder, pack or archive, with their folder.

    This is no error yet: the nodes of a cluster may have folders that its login node does not have.
    """
    names = [config.data.dataset] if any(spec.stage == "train" for spec in specs) else []
    names += [item.dataset for spec in specs if spec.stage == "extract" for item in spec.items]
    absent = [name for name in names if not made_without_files(name) and place(name, config.data) is None]
    return {name: folder_of(name, config.data).absolute() for name in absent}


def is_trained(run: RunDir) -> bool:
    """Return whether the newest checkpoint says that the training is complete."""
    newest = newest_manifest(run.checkpoints)
    return newest is not None and newest[1].finished


def is_reported(run: RunDir) -> bool:
    """Return whether a report exists that is not older than the results and the training's metrics."""
    page = run.report_page
    if not page.exists():
        return False
    at_milestones = [path for epoch in run.evaluated_milestones() for path in run.at(epoch).probe_results()]
    sources = [run.metrics, *run.probe_results(), *at_milestones]
    return all(path.stat().st_mtime_ns <= page.stat().st_mtime_ns for path in sources if path.exists())
