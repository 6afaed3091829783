"""Files are written whole or not at all, and suggestions are made for near names only."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests import refusing
from tests.disks import small_disk
from trex.errors import (
    ExitCode,
    Interrupted,
    MachineLost,
    NoProgress,
    ResumeRefused,
    RunLocked,
    Superseded,
    TrexError,
    Unwritable,
    UserError,
)
from trex.files import (
    TEMPORARY,
    append_line,
    atomic_path,
    checked_writes,
    move,
    read_json,
    remove_leftovers,
    sha256,
    write_json,
    write_text,
)
from trex.wording import counted, did_you_mean


def test_failure_while_writing_leaves_the_old_content_and_no_other_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("new")
        raise RuntimeError("in the middle")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "file", "text")
    assert (tmp_path / "a" / "b" / "file").read_text() == "text"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_file_may_be_read_by_whom_the_umask_allows(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "file", "text")
        assert os.umask(mask) == mask, "the umask stays as it was"
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask


def test_umask_is_not_changed_for_a_moment_in_which_another_thread_could_create_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the umask was changed"))
    write_text(tmp_path / "file", "text")


def test_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("theirs")
    (tmp_path / "file").symlink_to("elsewhere")
    write_text(tmp_path / "file", "ours")
    assert ((tmp_path / "elsewhere").read_text(), (tmp_path / "file").is_symlink()) == ("theirs", False)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"bytes"])
def test_value_that_json_cannot_hold_is_refused_and_the_old_file_stays(tmp_path: Path, value: object) -> None:
    write_json(tmp_path / "file.json", {"a": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "file.json", {"a": value})
    assert read_json(tmp_path / "file.json") == {"a": 1}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_file_that_is_not_json_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"file\.json"):
        read_json(tmp_path / "file.json")


def test_only_unfinished_files_are_cleared_away(tmp_path: Path) -> None:
    for name in (f"{TEMPORARY}1-file", "file", f"x{TEMPORARY}"):
        (tmp_path / name).write_text("")
    (tmp_path / f"{TEMPORARY}folder").mkdir()
    (tmp_path / f"{TEMPORARY}link").symlink_to("file")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{TEMPORARY}folder", f"{TEMPORARY}link", "file", f"x{TEMPORARY}",
    ]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), [("", "b\n"), ("a\n", "a\nb\n"), ("a", "a\nb\n")])
def test_line_is_appended_after_a_line_that_was_cut_off(tmp_path: Path, before: str, after: str) -> None:
    (tmp_path / "lines").write_text(before)
    append_line(tmp_path / "lines", "b")
    assert (tmp_path / "lines").read_text() == after


def test_half_a_line_on_a_full_disk_is_taken_back(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        path = disk.folder / "lines"
        path.write_text("a\n" * 2000)  # a part of the next line fits into its last block
        disk.fill()
        with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
            append_line(path, "b" * 100_000)
        assert path.read_text() == "a\n" * 2000


def test_nothing_is_written_after_the_permission_has_ended(tmp_path: Path) -> None:
    """The permission may end while a file is written."""
    may_write = [True]

    def check() -> None:
        if not may_write[0]:
            raise Superseded("another start has taken over")

    text, lines = tmp_path / "text", tmp_path / "lines"
    with checked_writes(check):
        write_text(text, "old")
        append_line(lines, "old")
        with pytest.raises(Superseded), atomic_path(text) as temporary:
            temporary.write_text("new")
            may_write[0] = False
        for write in (lambda: write_text(text, "new"), lambda: append_line(lines, "new")):
            with pytest.raises(Superseded):
                write()
    assert (text.read_text(), lines.read_text()) == ("old", "old\n")
    assert sorted(tmp_path.iterdir()) == [lines, text]
    write_text(text, "new")
    assert text.read_text() == "new"


def test_line_cannot_be_appended_to_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EISDIR)):
        append_line(tmp_path, "b")


def test_digest_is_that_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("word", "expected"),
    [("resnet5", "'resnet50'"), ("RESNET50", "'resnet50'"), ("vit", ""), ("", ""), ("resnet18", "'resnet18'")],
)
def test_suggestion_is_made_for_a_near_name_only(word: str, expected: str) -> None:
    found = did_you_mean(word, ["resnet18", "resnet50"])
    assert expected in found
    assert bool(found) == bool(expected)


def test_a_noun_has_the_form_that_fits_its_number() -> None:
    found = [counted(*one) for one in ((0, "time"), (1, "GPU"), (2, "GPU"), (1, "process"), (3, "process"))]
    assert found == ["0 times", "1 GPU", "2 GPUs", "1 process", "3 processes"]


def test_each_error_has_an_exit_code_of_its_own() -> None:
    refused = (UserError, RunLocked, Superseded, Unwritable, ResumeRefused, NoProgress)
    codes = sorted(error.exit_code for error in (TrexError, Interrupted, MachineLost, *refused))
    assert codes == [1, 2, 3, 4, 74, 75, 76, 77, 78]
    assert len({code.meaning for code in ExitCode}) == len(ExitCode) == len(codes) + 1
    assert all(code.meaning for code in ExitCode)


WRITE = """
import sys
from pathlib import Path
from trex.files import write_text
write_text(Path(sys.argv[1]), "text")
print("written")
"""


@pytest.mark.parametrize(
    ("call", "error"),
    [
        *(("folder_fsync", error) for error in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)),
        *(("chmod", error) for error in (errno.EPERM, errno.ENOTSUP)),
    ],
)
def test_file_is_written_where_the_file_system_syncs_no_folder_or_has_no_modes(
    tmp_path: Path, call: str, error: int
) -> None:
    done = refusing.python(WRITE, tmp_path / "file", folder=tmp_path, **{call: error})
    assert done.stdout == "written\n", done.stderr
    assert (tmp_path / "file").read_text() == "text"
    assert not list(tmp_path.glob(f"{TEMPORARY}*"))


@pytest.mark.parametrize(
    ("call", "error"),
    [("file_fsync", errno.EINVAL), ("file_fsync", errno.EIO), ("folder_fsync", errno.EIO), ("chmod", errno.EROFS)],
)
def test_file_that_may_not_be_on_the_disk_is_an_error(tmp_path: Path, call: str, error: int) -> None:
    done = refusing.python(WRITE, tmp_path / "file", folder=tmp_path, **{call: error})
    assert done.returncode != 0
    assert f"OSError: [Errno {error}] {os.strerror(error)}" in done.stderr


@pytest.mark.parametrize("error", [errno.ENOENT, errno.EEXIST, errno.EIO])
def test_rename_whose_answer_was_lost_counts_as_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    replace = os.replace

    def lost(source: Path, target: Path) -> None:
        replace(source, target)
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "replace", lost)
    write_text(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"
    (tmp_path / "folder").mkdir()
    move(tmp_path / "folder", tmp_path / "moved")
    assert (tmp_path / "moved").is_dir()


def test_rename_that_was_not_done_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("old")

    def refused(*_paths: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(OSError, match="Input/output error"):
        write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
