"""What each stage of a run ran on, with which code and versions, and what it used: rows of a table."""

from __future__ import annotations

from collections.abc import Sequence

from trex.records.attempts import hours
from trex.records.environment import Environment, values_of
from trex.records.stage import STAGES, Stage
from trex.reporting.collect import RunData

#: How many nodes a cell of the table names.
_NODES = 8


def of_stage(run: RunData, stage: Stage) -> list[Environment]:
    """The records of all attempts of a stage, oldest first."""
    return [event for event in run.events if isinstance(event, Environment) and event.stage == stage]


def stage_rows(run: RunData) -> tuple[list[str], list[list[str]]]:
    """The header, which has the stages that started, and the rows: one per fact. The first column names the fact.

    A fact that differs between the attempts of a stage has all its values: `torch | 2.13.0 → 2.14.1`.
    """
    found = {stage: of_stage(run, stage) for stage in STAGES}
    stages = [stage for stage in STAGES if found[stage] or stage in run.usage]
    values = {stage: values_of(found[stage]) for stage in stages}
    names = dict.fromkeys(name for stage in stages for name in values[stage])
    rows = [[name, *(" → ".join(values[stage].get(name, ())) for stage in stages)] for name in names]
    rows.insert(1, ["nodes", *(_nodes(found[stage]) for stage in stages)])
    used = [run.usage.get(stage) for stage in stages]
    rows += [
        ["GPU-hours", *(hours(one.gpu_seconds) if one and one.gpu_seconds else "" for one in used)],
        ["core-hours", *(hours(one.core_seconds) if one and one.core_seconds else "" for one in used)],
        ["energy, kWh", *(hours(one.joules / 1000) if one and one.joules else "" for one in used)],
    ]
    return ["", *stages], [row for row in rows if any(row[1:])]


def _nodes(attempts: Sequence[Environment]) -> str:
    """The names of the first nodes, and how many there are if these are not all."""
    names = list(dict.fromkeys(node.name for attempt in attempts for node in attempt.nodes))
    return ", ".join(names[:_NODES]) + (f", … ({len(names)} nodes)" if len(names) > _NODES else "")
