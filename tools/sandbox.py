"""Starts a real Slurm with accounting on this machine in a few seconds: four nodes with simulated GPUs.

    python tools/sandbox.py up          start it; does nothing if it is already running
    python tools/sandbox.py down        stop it and all its jobs; leaves no process and no file behind
    python tools/sandbox.py status      show nodes and jobs
    python tools/sandbox.py env         print the line that connects a shell: eval "$(python tools/sandbox.py env)"
    python tools/sandbox.py fail-node n2      kill a node and all its jobs; `revive-node n2` starts it again

All files are in one folder (build/sandbox, or --folder), none under /etc. No root rights are needed. The daemons listen
only on the address that this machine's name resolves to, usually the loopback, on unprivileged ports. The sandbox
installs nothing: it names the Debian packages that are missing.

Partitions: gpu (jobs in urgent preempt its jobs after a grace time), urgent, cpu.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import getpass
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from sandbox_files.configuration import NODES, Options, write_configuration
from sandbox_files.logs import problems
from sandbox_files.packages import PACKAGES, SYSTEM_PATH, missing_packages
from sandbox_files.ports import reserved_ports
from sandbox_files.processes import Process, kill_all

DEFAULT_FOLDER = Path(__file__).resolve().parents[1] / "build" / "sandbox"
#: Length limit: Slurm's socket names are up to 40 characters longer than the folder, and the system allows 107.
LONGEST_FOLDER = 64
#: How long to wait for a daemon. One that ends is an error at once, so only a very slow machine waits this long. A node
#: that Slurm has set to DOWN, because the machine was too busy to answer, needs up to a minute to return.
SECONDS_TO_START = 120.0
#: Environment variable of every daemon that holds the folder, so that `down` finds daemons even if `up` was killed.
MARK = "TREX_SANDBOX"


class SandboxError(Exception):
    """An error whose message is for the user. `code` is the exit code, `daemons` are those that did not start."""

    def __init__(self, message: str, code: int = 1, daemons: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.daemons = daemons


class Sandbox:
    """One sandbox, identified by its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.realpath(folder.expanduser()))
        self.environment = {**_outside_of_jobs(), MARK: str(self.folder), "SLURM_CONF": str(self.conf)}
        self.environment["MYSQL_UNIX_PORT"] = str(self.folder / "db" / "sock")
        self.environment["PATH"] += SYSTEM_PATH
        self.started: dict[str, subprocess.Popen[bytes]] = {}  #: daemons by the name of their log

    @property
    def conf(self) -> Path:
        """Slurm's configuration file, for the variable SLURM_CONF."""
        return self.folder / "slurm.conf"

    @property
    def about(self) -> Path:
        """File with the options and ports of the running sandbox. It also marks the folder as a sandbox."""
        return self.folder / "sandbox.json"

    # ---- up and down

    def up(self, options: Options) -> bool:
        """Start the sandbox. Returns False if it was already running; its options then stay unchanged."""
        require_packages(options, self.environment["PATH"])
        if len(str(self.folder)) > LONGEST_FOLDER:
            message = f"{self.folder}: too long for socket names: use a folder of at most {LONGEST_FOLDER} characters"
            raise SandboxError(message + ", such as --folder /tmp/sandbox", 2)
        with self._alone():
            if self.is_up():
                return False
            self._remove()
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._start(options)
            except BaseException as error:
                logs = problems(self.folder / "log", error.daemons) if isinstance(error, SandboxError) else ""
                self._remove()
                if logs and isinstance(error, SandboxError):
                    raise SandboxError(f"{error}\n{logs}", error.code) from error
                raise
        return True

    def down(self) -> bool:
        """End all processes of the sandbox and delete its folder. Returns False if there was nothing to do."""
        with self._alone():
            return self._remove()

    def is_up(self) -> bool:
        """Whether slurmctld answers and knows all nodes."""
        if not self.about.exists():
            return False
        answer = self.ask("sinfo", "--noheader", "--format", "%D")
        return answer is not None and answer.split()[:1] == [str(len(NODES))]

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold a lock, so that only one `up` or `down` of a folder runs at a time."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        lock = self.folder.with_name(f".{self.folder.name}.lock")
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)

    def _remove(self) -> bool:
        found = kill_all(self._is_mine)
        if not self.folder.exists():
            return found
        if any(self.folder.iterdir()) and not self.about.exists():
            raise SandboxError(f"{self.folder}: not empty and not a sandbox, so nothing in it was changed", 2)
        shutil.rmtree(self.folder)
        return True

    def _is_mine(self, process: Process) -> bool:
        """Whether it is a daemon, a slurmstepd (which overwrites its environment), or a task of a job."""
        of_a_step = process.name == "slurmstepd" and self.folder in (process.cwd, *process.cwd.parents)
        return process.has(MARK, str(self.folder)) or of_a_step or self._is_task(process)

    def _is_task(self, process: Process) -> bool:
        return process.has("SLURM_CONF", str(self.conf)) and process.has("SLURM_JOB_ID")

    def _is_on(self, node: str, process: Process) -> bool:
        of_the_node = process.name in ("slurmd", "slurmstepd") and process.cwd == self._node_folder(node)
        return of_the_node or (self._is_task(process) and process.has("SLURMD_NODENAME", node))

    def _node_folder(self, node: str) -> Path:
        return self.folder / "spool" / node

    # ---- the daemons

    def _start(self, options: Options) -> None:
        """Write the configuration, start each daemon and wait until it answers."""
        self.about.write_text("{}", encoding="utf-8")
        self.folder.chmod(0o755)
        for name in ("state", "db", "tmp", "log", "gpus"):
            (self.folder / name).mkdir(mode=0o700)
        # All users need the socket of munge and their batch scripts.
        for name in ("munge", "spool", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir()
            (self.folder / name).chmod(0o755)
        address = own_address()
        with reserved_ports(len(NODES) + 2, address) as ports:
            database = self._database(options, address, list(ports)[1])
            version = self.ask("slurmctld", "-V") or ""
            write_configuration(self.folder, options, address, list(ports), database, version)
            # munged runs as long as the sandbox, so it keeps the ports reserved, also that of a node that failed.
            self._start_munge([one.fileno() for one in ports.values()], options.beside)
        if options.accounting and not options.beside:
            self._start_accounting()
        if options.accounting:
            words = ("sacctmgr", "--immediate", "add", "cluster", options.cluster)
            if self.ask(*words, timeout=SECONDS_TO_START) is None:
                raise SandboxError("sacctmgr could not add the cluster to the database", daemons=["slurmdbd"])
        self._daemon("slurmctld", "-D")
        self._wait("slurmctld", lambda: self.ask("scontrol", "ping") is not None)
        for node in NODES:
            self.revive_node(node)
        self._wait("slurmd", lambda: list(self._node_states().values()) == ["idle"] * len(NODES), self._nodes_error)
        values = {"options": asdict(options), "address": address, "ports": list(ports)}
        self.about.write_text(json.dumps(values, indent=2), encoding="utf-8")

    def _node_states(self) -> dict[str, str]:
        """Slurm's word for the state of each node, such as idle; empty if slurmctld does not answer."""
        answer = self.ask("sinfo", "--noheader", "--Node", "--partition", "gpu", "--format", "%N %T") or ""
        return dict(line.split() for line in answer.splitlines())

    def _nodes_error(self, message: str) -> SandboxError:
        """An error that adds the state of each node to a message."""
        states = self._node_states()
        listed = ", ".join(f"{node} is {state}" for node, state in states.items()) or "slurmctld does not answer"
        late = [f"slurmd.{node}" for node, state in states.items() if state != "idle"]
        return SandboxError(f"{message}: {listed}", daemons=late or ["slurmctld"])

    def _database(self, options: Options, address: str, port: int) -> tuple[str, int]:
        """Address and port of the slurmdbd to use: that of another sandbox, or the own."""
        if not options.beside:
            return address, port
        other = Sandbox(Path(options.beside))
        if not other.is_up() or not options.accounting:
            raise SandboxError(f"{options.beside}: expected the folder of a sandbox that runs, with accounting", 2)
        values = json.loads(other.about.read_text(encoding="utf-8"))
        return values["address"], values["ports"][1]

    def _start_munge(self, reserved: Sequence[int], beside: str) -> None:
        """Start munged, with the key of the sandbox `beside` if any. It keeps the descriptors in `reserved` open."""
        key = self.folder / "munge" / "key"
        key.write_bytes(Path(beside, "munge", "key").read_bytes() if beside else secrets.token_bytes(1024))
        key.chmod(0o400)
        munge = ["--key-file", str(key), "--pid-file", f"{key.parent}/pid", "--log-file", f"{key.parent}/log"]
        munge += ["--seed-file", f"{key.parent}/seed", "--socket", f"{key.parent}/sock"]
        self._daemon("munged", "--foreground", "--force", *munge, reserved=reserved)
        self._wait("munged", (key.parent / "sock").exists)

    def _start_accounting(self) -> None:
        data, log = self.folder / "db", self.folder / "log" / "mariadb-install-db.out"
        # A mariadbd that starts deletes the temporary tables of all others in the same --tmpdir, which is /tmp.
        own = ("--no-defaults", f"--datadir={data}", f"--tmpdir={self.folder / 'tmp'}", f"--user={getpass.getuser()}")
        words = ["mariadb-install-db", *own, "--skip-test-db", "--auth-root-authentication-method=normal"]
        with log.open("wb") as file:
            done = subprocess.run(words, stdout=file, stderr=file, env=self.environment, check=False)
        if done.returncode:
            message = f"mariadb-install-db ended with exit code {done.returncode}"
            raise SandboxError(message, daemons=["mariadb-install-db"])
        self._daemon(
            "mariadbd", *own, f"--socket={data}/sock", "--skip-networking", f"--pid-file={data}/pid",
            "--innodb-flush-log-at-trx-commit=0",
        )  # fmt: skip
        ping = ("mariadb-admin", "--no-defaults", f"--socket={data}/sock", "--user=root", "ping")
        self._wait("mariadbd", lambda: self.ask(*ping) is not None)
        # slurmdbd would create it, but with MariaDB's library of Debian 13, a slurmdbd that finds none never connects.
        if self.ask(*ping[:-1], "create", "slurm") is None:
            raise SandboxError("the database slurm could not be created", daemons=["mariadbd"])
        self._daemon("slurmdbd", "-D")
        self._wait("slurmdbd", lambda: self.ask("sacctmgr", "--noheader", "list", "cluster") is not None)

    def _daemon(self, *words: str, node: str | None = None, reserved: Sequence[int] = ()) -> None:
        """Start a daemon that continues to run after this program ends, with the file descriptors in `reserved`."""
        name = f"{words[0]}.{node}" if node else words[0]
        with (self.folder / "log" / f"{name}.out").open("ab") as file:
            self.started[name] = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=self.environment, start_new_session=True,
                cwd=self._node_folder(node) if node else self.folder, pass_fds=reserved,
            )  # fmt: skip

    def fail_node(self, node: str) -> None:
        """Simulate a power failure of a node: kill its slurmd and all its jobs without notice."""
        self._require_node(node)
        kill_all(lambda process: self._is_on(node, process))

    def revive_node(self, node: str) -> None:
        """Start a node's slurmd again."""
        self._require_node(node)
        self._daemon("slurmd", "-D", "-N", node, node=node)

    def _require_node(self, node: str) -> None:
        if node not in NODES:
            raise SandboxError(f"{node}: unknown node, expected one of {', '.join(NODES)}", 2)
        if not self.about.exists():
            raise SandboxError(f"{self.folder}: no sandbox is running here", 2)

    # ---- commands of Slurm and MariaDB

    def ask(self, *words: str, timeout: float = 60) -> str | None:
        """Run a command of Slurm or MariaDB. Returns its output, or None if it fails."""
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, env=self.environment, timeout=timeout, check=False
            )
        except (subprocess.TimeoutExpired, FileNotFoundError):
            return None
        return done.stdout if done.returncode == 0 else None

    def _wait(self, daemon: str, ready: Callable[[], bool], error: Callable[[str], SandboxError] | None = None) -> None:
        """Wait until `ready`. A daemon that has ended is an error at once; `error` completes a time-out's message."""
        deadline = time.monotonic() + SECONDS_TO_START
        while not ready():
            for name, process in self.started.items():
                if process.poll() is not None:
                    raise SandboxError(f"{name} ended with exit code {process.returncode}", daemons=[name])
            if time.monotonic() > deadline:
                message = f"{daemon} did not start within {SECONDS_TO_START:.0f} s"
                raise error(message) if error else SandboxError(message, daemons=[daemon])
            time.sleep(0.05)


def require_packages(options: Options, path: str) -> None:
    """Raise SandboxError if Debian packages are missing. The message names them."""
    needed = [name for name in PACKAGES if options.accounting or name in ("slurm-wlm", "munge")]
    missing = missing_packages(needed, path)
    if missing:
        raise SandboxError(
            f"missing on this machine: {', '.join(missing)}. On Debian or Ubuntu:\n"
            f"  apt-get install --no-install-recommends {' '.join(missing)}",
            2,
        )


def own_address() -> str:
    """The address that this machine's name resolves to. Slurm's daemons listen only on this address."""
    host = socket.gethostname().split(".")[0]
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])
    except OSError as error:
        raise SandboxError(
            f"the name of this machine, {host}, cannot be resolved: add '127.0.0.1 {host}' to /etc/hosts", 2
        ) from error


def _outside_of_jobs() -> dict[str, str]:
    """This process's environment without Slurm's variables, which may come from another cluster or from a job."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH", MARK))}


def main() -> int:
    """Run the command of the command line. Returns the exit code."""
    defaults = Options()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("up", "down", "status", "env", "fail-node", "revive-node"))
    parser.add_argument("node", nargs="?", help="for fail-node and revive-node: n1 to n4")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="folder of the sandbox (%(default)s)")
    parser.add_argument(
        "--grace", type=int, default=defaults.grace, help="grace time of a preemption, seconds (%(default)s)"
    )
    parser.add_argument("--user-signal", action="store_true", help="preempt with the job's --signal, not SIGTERM")
    parser.add_argument("--no-accounting", action="store_true", help="no database and no sacct; starts faster")
    parser.add_argument(
        "--beside", default="", metavar="FOLDER", help="a second cluster, with the database of FOLDER's"
    )
    parser.add_argument("--memory-limits", action="store_true", help="kill jobs that use more memory than they ask for")
    parser.add_argument(
        "--max-array-size", type=int, default=defaults.max_array_size, help="0: no job arrays (%(default)s)"
    )
    parser.add_argument("--node-timeout", type=int, default=defaults.node_timeout, help="SlurmdTimeout (%(default)s s)")
    args = parser.parse_args()
    sandbox = Sandbox(args.folder)
    chosen = {
        key: vars(args)[key]
        for key in ("grace", "user_signal", "max_array_size", "node_timeout", "memory_limits", "beside")
    }
    options = Options(accounting=not args.no_accounting, **chosen)
    try:
        return _do(args.command, args.node, sandbox, options)
    except (SandboxError, TimeoutError) as error:
        print(f"sandbox: error: {error}", file=sys.stderr)
        return getattr(error, "code", 1)


def _do(command: str, node: str | None, sandbox: Sandbox, options: Options) -> int:
    if command in ("fail-node", "revive-node"):
        (sandbox.fail_node if command == "fail-node" else sandbox.revive_node)(node or "no name given")
        return 0
    if command == "down":
        print("stopped; no process and no file is left" if sandbox.down() else "nothing to stop", file=sys.stderr)
        return 0
    if command == "up":
        began = time.monotonic()
        started = sandbox.up(options)
        words = (
            f"a Slurm with {len(NODES)} nodes is running after {time.monotonic() - began:.1f} s"
            if started
            else "it is already running"
        )
        print(f"{words}; stop it with: python tools/sandbox.py down", file=sys.stderr)
    if not sandbox.is_up():
        raise SandboxError(f"{sandbox.folder}: no sandbox is running here: start it with `python tools/sandbox.py up`")
    if command == "status":
        print(sandbox.ask("sinfo") or "", sandbox.ask("squeue") or "", sep="\n")
    else:
        print(f"export SLURM_CONF={sandbox.conf}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
