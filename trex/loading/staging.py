"""Staging: packs are copied to a folder of each node before its processes read them from there.

One process of each node copies, in threads. Meanwhile all ranks exchange how far they are every moment, so a signal to
any of them stops all, and a rank that is lost is noticed. Whatever prevents a copy, the pack is then read in place.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from trex.config.paths import expanded
from trex.datasets.members import DataFile
from trex.datasets.split import Split, SplitName
from trex.distributed import Ranks
from trex.files import TEMPORARY, move, sync
from trex.interruption import StopRequest
from trex.storage import Space, in_bytes
from trex.wording import counted, duration

log = logging.getLogger(__name__)

Splits = dict[SplitName, Split]

_SECONDS = 10.0  #: between two lines of progress
_POLL_SECONDS = 0.5
_THREADS = 4  #: files that are copied at once
_BLOCK = 8 << 20  #: bytes


@dataclass(frozen=True)
class Staging:
    """Where the copies of a node are."""

    folder: str  #: as in the cluster file; `~` and variables are replaced on the node
    node: str  #: name of this process's node
    copies: bool  #: whether this process copies, which one process of each node does


def staged(splits: Splits, staging: Staging, ranks: Ranks, stop: StopRequest) -> Splits:
    """Return splits that are read from this node's copy of their pack. Names, labels and digests stay the same.

    Every rank must call it, with the same splits. Where there is no copy, the splits are returned as they are, and rank
    0 logs one warning. Datasets whose images are not in files are left as they are.

    Raises:
        Interrupted: on every rank, if one was asked to stop. What was copied is deleted by the next staging.
    """
    split = splits["test"]
    if split.folder is None or any(one.images is not None for one in splits.values()):
        return splits
    files = _files_of_pack(splits)
    if not files:
        if ranks.is_main:
            log.warning(
                "%s: read in place, because it is no pack; to make one: trex data pack %s", *[split.dataset] * 2
            )
        return splits
    copy = _Copy(split.folder.name, files, staging.folder) if staging.copies else None
    began = time.monotonic()
    _wait(copy, split.dataset, ranks, stop)
    said = ranks.gather_texts(copy.outcome(staging.node) if copy is not None else "")
    outcomes = [_Outcome(*json.loads(text)) for text in said if text]
    if ranks.is_main:
        _report(split, staging.folder, outcomes, time.monotonic() - began)
    here = next((one.folder for one in outcomes if one.node == staging.node), "")
    return {name: _moved(split, Path(here)) for name, split in splits.items()} if here else splits


def _files_of_pack(splits: Splits) -> tuple[DataFile, ...]:
    """Return the files of the pack that the splits are in; empty if they are in something else."""
    files: list[DataFile] = []
    for split in splits.values():
        if split.members is None or not split.members.packed:
            return ()
        files += split.members.files
    return tuple(files)


def _moved(split: Split, folder: Path) -> Split:
    assert split.members is not None
    files = tuple(file._replace(path=folder / file.path.name) for file in split.members.files)
    return replace(split, members=replace(split.members, files=files))


@dataclass(frozen=True)
class _Outcome:
    """What came of the copy on one node."""

    node: str
    folder: str  #: of the copy; empty if there is none
    copied: int  #: bytes that were copied; 0 if the copy was there already
    problem: str  #: why there is none


def _report(split: Split, folder: str, outcomes: list[_Outcome], seconds: float) -> None:
    copied = max(one.copied for one in outcomes)
    if good := [one for one in outcomes if one.folder]:
        how = "was there already"
        if copied:
            how = f"{in_bytes(copied)} copied in {duration(seconds)}, {in_bytes(copied / max(seconds, 1e-9))}/s"
        log.info("%s: read from a copy in %s on %s: %s", split.dataset, folder, counted(len(good), "node"), how)
    if bad := [one for one in outcomes if not one.folder]:
        nodes = ", ".join(one.node for one in bad)
        log.warning("%s: read in place, from %s, on %s: %s", split.dataset, split.folder, nodes, bad[0].problem)


def _wait(copy: _Copy | None, dataset: str, ranks: Ranks, stop: StopRequest) -> None:
    """Wait until no rank copies any more. Raises Interrupted on every rank, if one was asked to stop."""
    began = shown = time.monotonic()
    while True:
        if copy is not None:
            copy.watch(ranks.limit.seconds)
        asked, busy, done, total = torch.stack(
            ranks.gather(torch.tensor([bool(stop), *(copy.progress() if copy is not None else (0, 0, 0))]))
        ).T
        if asked.any():
            if copy is not None:
                copy.cancel()
            ranks.check(stop)
        if not busy.any():
            return
        now = time.monotonic()
        if ranks.is_main and now - shown >= _SECONDS:
            shown = now
            first = int(((total - done) * busy).argmax())
            _show(dataset, int(done[first]), int(total[first]), int((total > 0).sum()), now - began)


def _show(dataset: str, done: int, total: int, nodes: int, seconds: float) -> None:
    if not done:
        log.info("%s: staging has not begun: it waits for the file system or for another job on the node", dataset)
        return
    where = f" on the slowest of {nodes} nodes" if nodes > 1 else ""
    left = duration((total - done) * seconds / done)
    log.info(
        f"{dataset}: staging: {in_bytes(done)} of {in_bytes(total)}{where}, {in_bytes(done / seconds)}/s, {left} left"
    )


class _Canceled(Exception):
    """The copy is no longer wanted."""


class _Copy:
    """Copies the files of a pack to this node, in threads. Other threads ask how far it is."""

    def __init__(self, name: str, files: tuple[DataFile, ...], folder: str) -> None:
        self._files, self._folder = files, folder
        self._total = sum(file.size for file in files)
        # The files are known by their SHA-256, so a folder of this name is a copy of these very files.
        listed = json.dumps([[file.path.name, file.size, file.version] for file in files])
        self._name = f"{hashlib.sha256(listed.encode()).hexdigest()[:32]}-{name}"
        self._done, self._target, self._problem = 0, "", ""
        self._count, self._moved = threading.Lock(), time.monotonic()
        self._canceled, self._ended = threading.Event(), threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def progress(self) -> tuple[bool, int, int]:
        """Whether it still copies, how many bytes it has copied, and how many there are."""
        return not self._ended.is_set(), self._done, self._total

    def outcome(self, node: str) -> str:
        """Return the fields of an `_Outcome` as JSON."""
        return json.dumps([node, self._target, self._done if self._target else 0, self._problem])

    def cancel(self) -> None:
        """Let the copy end soon. What it has copied stays, because the process may have only seconds left."""
        self._canceled.set()

    def watch(self, limit: float) -> None:
        """Wait a moment for the end. Give up if nothing has moved for `limit` seconds."""
        if not self._ended.wait(_POLL_SECONDS) and time.monotonic() - self._moved > limit:
            with self._count:
                self._canceled.set()
                self._problem = f"nothing was copied for {limit:g} s (limits.start_seconds)"
                self._ended.set()

    def _run(self) -> None:
        target = problem = ""
        try:
            target = str(self._copied())
        except _Canceled:
            problem = "canceled"
        except OSError as error:
            problem = f"{error.filename or self._folder}: {error.strerror or error}"
        except Exception as error:
            problem = str(error)
        with self._count:
            if not self._ended.is_set():  # otherwise it was given up
                self._target, self._problem = target, problem
                self._ended.set()

    def _copied(self) -> Path:
        """Return the complete copy. Raises OSError, or ValueError with the reason, if there can be none."""
        own = _own_folder(self._folder)
        target = own / self._name
        if self._is_complete(target):
            return target
        with self._only_one(own):
            if not self._is_complete(target):
                for path in [target, *own.glob(f"{TEMPORARY}*")]:  # damaged, or of a process that was killed
                    if path.is_dir():
                        shutil.rmtree(path)
                self._copy(own, target)
        return target

    def _is_complete(self, target: Path) -> bool:
        with contextlib.suppress(OSError):
            return all((target / file.path.name).stat().st_size == file.size for file in self._files)
        return False

    @contextlib.contextmanager
    def _only_one(self, folder: Path) -> Iterator[None]:
        """Wait until no other process of this user copies to this node. The kernel ends the lock of a killed one."""
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if self._canceled.wait(_POLL_SECONDS):
                        raise _Canceled from None
            yield
        finally:
            os.close(handle)

    def _copy(self, own: Path, target: Path) -> None:
        space = Space.at(own)
        if space.lacks(self._total, len(self._files) + 1):
            raise ValueError(f"{space}, and {in_bytes(self._total)} are needed")
        temporary = own / f"{TEMPORARY}{self._name}"
        temporary.mkdir(mode=0o700)
        try:
            with ThreadPoolExecutor(_THREADS) as pool:
                copies = [pool.submit(self._copy_file, file, temporary / file.path.name) for file in self._files]
            errors = [error for one in copies if (error := one.exception())]
            if errors:
                raise next((error for error in errors if not isinstance(error, _Canceled)), errors[0])
            sync(temporary)
            move(temporary, target)
            sync(own)
        except _Canceled:
            raise
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _copy_file(self, file: DataFile, target: Path) -> None:
        digest = hashlib.sha256()
        try:
            with file.path.open("rb", buffering=0) as source, target.open("xb") as copy:
                while block := source.read(_BLOCK):
                    if self._canceled.is_set():
                        raise _Canceled
                    copy.write(block)
                    digest.update(block)
                    with self._count:
                        self._done, self._moved = self._done + len(block), time.monotonic()
            if digest.hexdigest() != file.version:
                raise ValueError(f"{file.path}: its bytes are not those of the index: copy the pack again")
            sync(target)
        except BaseException:
            self._canceled.set()  # the other files are of no use
            raise


def _own_folder(text: str) -> Path:
    """Return the user's own folder below a folder of the node. Creates it, but not the folder that it is in.

    Raises:
        ValueError: if another user could put other data there.
        OSError: if it cannot be created.
    """
    parent = Path(expanded(text))
    if not parent.is_absolute():
        raise ValueError(f"{text} is {str(parent)!r} on this node: expected an absolute path")
    folder = parent.resolve(strict=True) / f"trex-{os.getuid()}"
    for above in folder.parents:
        if above.stat().st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
            raise ValueError(
                f"{above}: other users could replace what is in it: expected mode 1777 or one that keeps them out"
            )
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise ValueError(
            f"{folder}: is a link, belongs to another user or is open to others: expected a folder of your own with "
            f"mode 700"
        )
    return folder
