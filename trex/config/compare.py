"""Checks whether two configs describe the same run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from trex.config.loader import to_dict

_ABSENT = object()


def differences(saved: Mapping[str, Any], config: Any) -> list[str]:
    """Describe the settings that make `config` another run than `saved`, one line per setting.

    Settings marked `resumable` are ignored: they cannot change the result, so attempts of one run may differ in them.

    Args:
        saved: the config of the saved run, as plain dicts, lists and scalars.
        config: the present config, a dataclass.
    """
    return list(_walk(saved, config, prefix=""))


def _walk(saved: Mapping[str, Any], config: Any, prefix: str) -> Iterator[str]:
    for field in dataclasses.fields(config):
        if field.metadata.get("resumable"):
            continue
        now = getattr(config, field.name)
        was = saved.get(field.name, _ABSENT)
        if dataclasses.is_dataclass(now):
            yield from _walk(was if isinstance(was, Mapping) else {}, now, f"{prefix}{field.name}.")
        elif was is not _ABSENT and was != to_dict(now):
            yield f"{prefix}{field.name}: was {was}, is now {to_dict(now)}"
        elif was is _ABSENT and now != _default(field):
            yield f"{prefix}{field.name}: did not exist, is now {to_dict(now)}"


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
