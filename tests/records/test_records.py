"""Every record is read back as it was written, and a damaged one is an error with file and line."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from tests.records.damage import damaged
from tests.records.examples import EVENTS, METRICS, RECORDS, STATE
from trex.records.base import Record, RecordError
from trex.records.events import AttemptEnded, read_events
from trex.records.job_state import JobState
from trex.records.metrics import MetricsLine
from trex.records.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[2]


def name(record: Record) -> str:
    return type(record).__name__


@pytest.mark.parametrize("record", RECORDS, ids=name)
def test_record_is_read_as_it_was_written(record: Record, tmp_path: Path) -> None:
    record.write(tmp_path / "one.json")
    assert type(record).read(tmp_path / "one.json") == record
    record.append(tmp_path / "many.jsonl")
    record.append(tmp_path / "many.jsonl")
    assert type(record).read_lines(tmp_path / "many.jsonl").strict() == (record, record)


@pytest.mark.parametrize("record", RECORDS, ids=name)
def test_damaged_record_is_still_valid_or_an_error_that_names_the_file(record: Record, tmp_path: Path) -> None:
    chance = random.Random(name(record))
    kind, errors, content = type(record), 0, b""
    for _ in range(1000):
        content = damaged(chance, record.to_json())
        try:
            found = kind.parse(content, "one.json")
        except RecordError as error:
            errors += 1
            assert str(error).startswith("one.json")
            str(error).encode()  # checks that it can be printed
        else:
            assert kind.from_json(found.to_json(), "again") == found
    assert errors > 700
    (tmp_path / "one.json").write_bytes(content + b"]")
    with pytest.raises(RecordError, match=str(tmp_path / "one.json")):
        kind.read(tmp_path / "one.json")


@pytest.mark.parametrize("records", [EVENTS, METRICS], ids=["events", "metrics"])
def test_all_valid_lines_between_damaged_lines_are_read(records: tuple[Record, ...], tmp_path: Path) -> None:
    chance = random.Random(1)
    path = tmp_path / "many.jsonl"
    lines = [damaged(chance, chance.choice(records).to_json()).replace(b"\n", b" ") for _ in range(1000)]
    good = records[0]
    path.write_bytes(b"\n".join(lines) + b"\n")
    before = MetricsLine.read_lines(path) if isinstance(good, MetricsLine) else read_events(path)
    good.append(path)
    after = MetricsLine.read_lines(path) if isinstance(good, MetricsLine) else read_events(path)
    assert after.records == (*before.records, good)
    assert len(after.damaged) > 700
    assert str(after.damaged[0]).startswith(f"{path}:")
    with pytest.raises(RecordError, match=r"many\.jsonl"):
        after.strict()


@dataclass(frozen=True)
class Example(Record):
    FORMAT: ClassVar[int] = 3
    step: int
    name: str | None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{\n"format": 3,\n"step": "7",\n"name": "a"\n}', ":3: step: found '7', expected a whole number"),
        ('{\n"format": 3,\n"step": true,\n"name": "a"\n}', ":3: step: found True, expected a whole number"),
        ('{\n"format": 3,\n"step": 7\n}', ": name: missing, expected text or null"),
        ('{"format": 3, "step": 7, "name": null, "nmae": "b"}', ": found the unknown key 'nmae', expected only step"),
        ('{\n"format": 2,\n"step": 7\n}', ":2: format: found 2, expected 3 (Example)"),
        ('{"step": 7, "name": "a"}', ": format: missing, expected 3 (Example)"),
        (
            '{\n"format": 3,\n"step" 7}',
            ":3: found invalid JSON at column 8 (Expecting ':' delimiter), expected one JSON object",
        ),
        ("[]", ": found [], expected an object with step, name"),
        ('{"format": 3, "step": 7, "name": "\\ud800"}', "found '\\ud800', expected text"),
    ],
)  # fmt: skip
def test_error_says_line_key_what_was_found_and_what_was_expected(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(text)
    with pytest.raises(RecordError) as caught:
        Example.read(path)
    assert str(caught.value).startswith(str(path))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"oops": 1', ":1: found invalid JSON at column 11 (Expecting ',' delimiter), expected one JSON object"),
        ('{"oops": 1}', ":1: kind: missing, expected one of attempt_started, attempt_ended, "),
        ('{"kind": "birthday"}', ":1: kind: found 'birthday', expected one of attempt_started, attempt_ended, "),
        ("7", ":1: found 7, expected a JSON object"),
    ],
)  # fmt: skip
def test_damaged_event_is_an_error_that_lists_the_known_kinds(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(f"{text}\n")
    EVENTS[0].append(path)
    found = read_events(path)
    assert found.records == EVENTS[:1]
    (error,) = found.damaged
    assert str(error).startswith(f"{path}{expected}")


def test_missing_file_is_not_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Example.read(tmp_path / "none.json")
    assert Example.read_lines(tmp_path / "none.jsonl").strict() == ()


def test_number_that_is_not_finite_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        MetricsLine("train", 1, 1.0, {"loss": float("nan")}, 0.0).append(tmp_path / "metrics.jsonl")


def test_line_that_a_killed_writer_left_incomplete_is_ignored_and_the_next_line_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for line in METRICS:
        line.append(path)
    os.truncate(path, path.stat().st_size - 20)
    assert MetricsLine.read_lines(path).strict() == METRICS[:1]
    METRICS[1].append(path)
    assert MetricsLine.read_lines(path).records == METRICS


def test_text_that_is_not_valid_unicode_is_written_escaped(tmp_path: Path) -> None:
    reason = os.fsdecode(b"/data/\xff.jpg\0 \xe2\x80\xa8 gone")
    event = AttemptEnded(0.0, "train", ("train",), "1", 0, 1, reason, None, "nothing", 1.0)
    event.append(tmp_path / "events.jsonl")
    (found,) = read_events(tmp_path / "events.jsonl").strict()
    assert isinstance(found, AttemptEnded)
    assert found.reason == "/data/\\udcff.jpg\\x00 \u2028 gone"


def test_shell_can_read_the_state_from_two_lines(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    STATE.save(run, "train")
    program = 'read -r job restart && read -r state starts && echo "$job,$restart,$state,$starts"'
    with run.state_for_shell("train").open() as file:
        done = subprocess.run(["bash", "-c", program], stdin=file, capture_output=True, text=True)
    assert done.stdout == "12_3,4,failed,2\n"
    assert JobState.of(run, "train") == STATE
    assert JobState.of(run, "probe-dtd") is None


def test_records_import_neither_torch_nor_numpy_nor_h5py() -> None:
    program = (
        "import sys, pkgutil, importlib, trex.records as package\n"
        "for module in pkgutil.iter_modules(package.__path__): importlib.import_module(f'trex.records.{module.name}')\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'h5py')))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
