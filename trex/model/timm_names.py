"""timm's models by name. timm is optional, and its import takes seconds, so it is imported only when it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trex.errors import UserError
from trex.wording import did_you_mean

TIMM = "timm/"


def import_timm(name: str) -> Any:
    """Import timm, for the encoder `name`.

    Raises:
        UserError: if timm is not installed or has no such model.
    """
    try:
        import timm
    except ImportError:
        raise UserError(f"model.encoder is {name!r}: timm is not installed; pip install 'trex-toolkit[timm]'") from None
    wanted = name.removeprefix(TIMM)
    if not timm.is_model(wanted):
        raise UserError(f"model.encoder is {name!r}: timm has no such model{did_you_mean(wanted, timm.list_models())}")
    return timm


def pretrained_cfg(name: str) -> Mapping[str, Any]:
    """What timm knows about the weights that a name such as `timm/inception_v3.tf_in1k` means: its `pretrained_cfg`.

    Raises:
        UserError: if timm is not installed, or has no such model or tag.
    """
    timm = import_timm(name)
    try:
        found = timm.get_pretrained_cfg(name.removeprefix(TIMM), allow_unregistered=False)
    except RuntimeError as error:
        raise UserError(f"model.encoder is {name!r}: {error}") from error
    made: Mapping[str, Any] = found.to_dict()
    return made
