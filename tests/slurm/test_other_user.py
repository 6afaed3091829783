"""A user without rights, who is not the one that runs the cluster, runs the whole chain."""

from __future__ import annotations

import os
import pwd
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.conftest import ROOT, Site, make_site, start_sandbox, stop_sandbox
from trex.records.run_dir import RunDir

USER = pwd.getpwnam("games")  # a user of every Debian


@dataclass
class UserSite(Site):
    """The sandbox and the user's folder. The user's commands see the mounts of the sandbox's daemons."""

    def call(self, *words: str, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
        controller = (self.sandbox / "slurmctld.pid").read_text().strip()
        enter = ["nsenter", f"--mount=/proc/{controller}/ns/mnt", "setpriv", f"--reuid={USER.pw_uid}"]
        enter += [f"--regid={USER.pw_gid}", "--clear-groups", "env", f"--chdir={self.home}", f"HOME={self.home}"]
        return super().call(*enter, *words, check=check, **more)


def reachable(folders: list[Path], aside: Path) -> list[str]:
    """Return a program that shows `folders` to all users, also inside of a folder that only its owner can enter.

    Its mounts are seen only by the command that follows it and by what that starts.
    """
    closed = {next((up for up in reversed(one.parents) if not up.stat().st_mode & 1), None): one for one in folders}
    hidden = [one for one in folders if any(up in closed for up in one.parents)]
    lines = [f"mkdir {aside}/{n} && mount --bind {shlex.quote(str(one))} {aside}/{n}" for n, one in enumerate(hidden)]
    lines += [f"mount -t tmpfs -o mode=0755 tmpfs {shlex.quote(str(up))}" for up in closed if up is not None]
    for n, one in enumerate(hidden):
        lines += [f"mkdir -p {shlex.quote(str(one))}", f"mount --bind {aside}/{n} {shlex.quote(str(one))}"]
    return ["unshare", "--mount", "bash", "-ec", "\n".join([*lines, 'exec "$@"']), "mounts"]


@pytest.fixture
def site() -> Iterator[Site]:
    if os.getuid():
        pytest.skip("needs root, to act as another user")
    with tempfile.TemporaryDirectory(prefix="trex-", dir="/tmp") as place:
        home, aside = Path(place, "home"), Path(place, "aside")
        aside.mkdir()
        folders = [ROOT, Path(sys.prefix), Path(sys.base_prefix)]
        folder = start_sandbox(inside=reachable([one.resolve() for one in folders], aside))
        try:
            folder.parent.chmod(0o755)
            Path(place).chmod(0o755)
            make_site(folder, home)
            for path in (home, *home.rglob("*")):
                os.chown(path, USER.pw_uid, USER.pw_gid)
            yield UserSite(folder, home)
        finally:
            stop_sandbox(folder)


def test_user_without_rights_runs_the_whole_chain(site: Site) -> None:
    site.trex("run", "tiny.yaml", "--cluster", "small.yaml", "name=mine", "probe.seeds=1")
    run = site.run_of("mine")
    jobs = run.jobs()
    site.ended(*jobs.values())
    assert {site.accounting(job)[-1] for job in jobs.values()} == {"COMPLETED"}
    assert RunDir(run.root).report_page.exists()
    assert {path.owner() for path in run.root.rglob("*")} == {USER.pw_name}
    assert "continue with" not in site.trex("status", "mine").stdout
