"""What the stages of a new run need on this machine, so that none is started that would end at once.

The stages check the same again, with the same functions. A run that has a folder is not checked: it has begun before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jobs.plan.spec import TaskSpec
from trex.config.schema import WEIGHTS_OF_RUN, Config
from trex.datasets.registry import located
from trex.errors import UserError
from trex.features.origin import no_checkpoint
from trex.model.sizes import is_resnet
from trex.records.run_dir import RunDir
from trex.training.requirements import require_training


def require_startable(run: RunDir, config: Config, specs: Sequence[TaskSpec], world: int) -> None:
    """Raise the UserError with which the first stages of a new run would end.

    Args:
        run: the run, which has no folder yet.
        config: its config.
        specs: its work, in order.
        world: the number of training processes.
    """
    stages = {spec.stage: spec for spec in specs}
    if "train" in stages:
        require_training(config, world)
    extracted = {item.dataset for item in stages["extract"].items} if "extract" in stages else set()
    for name in extracted:
        located(name, config.data)
    if extracted and "train" not in stages and config.extract.weights == "trained":
        raise no_checkpoint(run)
    if extracted:
        require_source(config)
    for item in stages["probe"].items if "probe" in stages else ():
        if item.dataset not in extracted:
            raise UserError(
                f"{run.features(item.dataset, 'trainval')}: this feature file does not exist. Extract the features "
                f"first: trex extract {run.name}"
            )


def require_source(config: Config) -> str:
    """Return which encoder of a weights file would be extracted, in words; "" if there is nothing to choose.

    Raises:
        UserError: if the encoder does not exist or takes no images of this size, or the weights file does not fit it.
    """
    weights, name = config.extract.weights, config.model.encoder
    if weights == "pixels":
        return ""
    if not is_resnet(name):
        from trex.features.source import require_crop
        from trex.model.encoder import build_encoder_on_meta

        require_crop(build_encoder_on_meta(name), config)
    if weights in WEIGHTS_OF_RUN:
        return ""
    from trex.model.weights import KeyMapSetting, find_encoder, read_file

    path, key_map = Path(weights), config.extract.key_map
    found = find_encoder(read_file(path), name, path, KeyMapSetting(Path(key_map) if key_map else None))
    return found.choice or ""
