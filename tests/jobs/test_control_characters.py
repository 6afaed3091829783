"""Whatever files, folders and Slurm say, no command and no log of a job controls a terminal with it."""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.commands import stages
from tests.datasets.conftest import put
from tests.jobs.conftest import FakeSlurm, note_submission, queued, saved_run
from trex.records.job_state import JobState, State
from trex.records.run_dir import RunDir

ESCAPE = "\x1b[2Jpwned\x9b5m\u202e\r"
SHOWN = r"\x1b[2Jpwned\x9b5m\u202e\r"


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was printed, after checking that it holds no control or format character."""
    out, err = capsys.readouterr()
    bad = {char for char in out + err if char not in "\n\t" and unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")}
    assert bad == set()
    return out + err


@pytest.fixture
def run(fake_slurm: FakeSlurm) -> RunDir:
    return saved_run("extract: {datasets: []}")


def test_status_shows_the_reason_in_a_state_file(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    reason = f"{ESCAPE}\ntrain   done"
    JobState(State.FAILED, 1, reason, None, "local-1", 0, "", 1, 0.0).save(run, "train")
    assert main(["status"]) == 0
    text = shown(capsys)
    assert SHOWN.removesuffix(r"\r") in text
    assert [line for line in text.splitlines() if line.startswith("train")] == [], "no line that the reason forges"


def test_status_shows_what_squeue_says(run: RunDir, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    note_submission(run, "a", train="7")
    fake_slurm.says("sacct")
    fake_slurm.says("squeue", queued("7", "PENDING", "a").replace("None", "\x1b[2Jpwned"))
    assert main(["status"]) == 0
    assert r"\x1b[2Jpwned" in shown(capsys)


def test_status_and_report_show_the_name_of_a_run_folder(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    other = run.root.with_name("\x1b[2Jpwned\u202e")
    run.root.rename(other)
    for words in (["status"], ["report", str(other)]):
        assert main(words) == 0
        assert r"\x1b[2Jpwned\u202e" in shown(capsys)


def test_logs_show_what_a_job_printed(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    run.slurm_jobs.mkdir()
    (run.slurm_jobs / "7_0_log.out").write_bytes(f"é {ESCAPE}\n".encode() + b"caf\xe9\n")
    assert main(["logs", "mine"]) == 0
    assert f"é {SHOWN}\ncaf\ufffd\n" in shown(capsys)


def test_data_list_shows_the_name_of_a_folder(fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    put(Path("data"), f"{ESCAPE}\n/train/cat/1.jpg", f"{ESCAPE}\n/val/cat/2.jpg")
    assert main(["data", "list"]) == 0
    assert SHOWN.removesuffix(r"\r") in shown(capsys)


def test_data_check_shows_the_name_of_an_image(fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    put(Path("data"), "birds/train/cat/1.jpg", "birds/val/cat/2.jpg")
    bad = f"{ESCAPE}\nunreadable images: 0\n.jpg"
    (Path("data/birds/train/cat") / bad).write_bytes(b"no image")
    (Path("data/birds/train/cat") / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"no image")
    assert main(["data", "check", "birds", "--processes", "1"]) == 2
    text = shown(capsys)
    assert text.count("\nunreadable images: ") == 1
    assert r"\x1b[2Jpwned" in text
    assert r"caf\xe9.jpg" in text


@pytest.mark.parametrize("words", [["check"], ["status"], ["train"], ["export", "--to", "x.pth"]])
def test_error_message_shows_the_argument(
    fake_slurm: FakeSlurm, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words[:1], ESCAPE, *words[1:]]) == 2
    assert SHOWN in shown(capsys)


def test_error_in_the_arguments_shows_them(fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([ESCAPE])
    assert r"pwned" in shown(capsys)


def test_traceback_of_an_unexpected_error_shows_its_message(
    fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError(ESCAPE)

    monkeypatch.setattr(stages, "open_config", fails)
    assert main(["train", "demo"]) == 1
    text = shown(capsys)
    assert "Traceback" in text
    assert f"RuntimeError: {SHOWN}" in text


def test_log_of_a_job_holds_no_control_characters() -> None:
    program = (
        "import logging; from jobs.local.process import this_task; from jobs.worker.task import _set_up_logging\n"
        f"_set_up_logging(this_task()); logging.getLogger('x').info('%s', {ESCAPE!r})\n"
        f"import warnings; warnings.warn({ESCAPE!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.count(SHOWN) == 2
    assert "\x1b" not in done.stdout + done.stderr


def test_watch_still_clears_the_terminal(
    run: RunDir, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jobs.commands.status.time.sleep", interrupt)
    assert main(["status", "--watch"]) == 130
    assert capsysbinary.readouterr().out.startswith(b"\x1b[2J\x1b[H")
