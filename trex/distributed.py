"""The processes that compute together: one rank per device, over NCCL on GPUs and gloo on CPUs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store

from trex.errors import ExitCode, Interrupted, MachineLost, TrexError, UserError
from trex.interruption import StopRequest
from trex.time_limit import SECONDS_TO_NOTICE, TimeLimit

CPU = torch.device("cpu")

#: After the connection to a rank is lost, the others get this time to say that they are still there.
_SECONDS_TO_REPORT = 5.0

#: How often rank 0 tells the others that it still works (`Ranks.on_main`). Much shorter than any time limit.
SIGN_OF_LIFE_SECONDS = 2.0


#: gloo raises plain RuntimeErrors. Their messages begin with the source file, which says where an error comes from.
_GLOO = re.compile(r"\bgloo/(transport|rendezvous)/")
#: What is wrong is how the program calls the library: tensors of other sizes, or two ranks on the same GPU.
_WRONG_CALL = re.compile(r"\[?enforce fail|ncclInvalid(Argument|Usage)|invalid (argument|usage)", re.IGNORECASE)


@dataclass(frozen=True)
class Ranks:
    """This process's rank, the world size, and collectives of small values on the CPU.

    `control` is a separate gloo group for these values, so that they never wait for the GPU.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = CPU
    control: dist.ProcessGroup | None = None
    limit: TimeLimit = field(default_factory=TimeLimit)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes the files that all ranks share."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every rank has reached this call."""
        if self.world > 1:
            dist.barrier(group=self.control)

    def maximum(self, value: int) -> int:
        """Return the largest `value` of any rank. Waits for all ranks."""
        self.limit.pause()
        if self.world == 1:
            return value
        result = torch.tensor([value])
        dist.all_reduce(result, op=dist.ReduceOp.MAX, group=self.control)
        return int(result.item())

    def agree(self, request: int = 0, problem: TrexError | None = None) -> int:
        """Return the largest `request` of any rank. Every rank calls this before each step, with its batch in hand.

        So no rank waits inside a step for one that will not take it: a rank that was asked to stop while it waited for
        its batch calls this without the batch, and all ranks save and stop after the same step.

        If this process takes longer than `limit` until the next call, its log shows what it does (trex/time_limit.py).

        Raises:
            TrexError: on every rank, if one has a `problem`: on that rank the problem itself, on the others its message
                with the rank's number.
        """
        answer = self.maximum(max(request, 0) if problem is None else _PROBLEM)
        if answer == _PROBLEM:
            said = self.gather_texts(_as_text(problem))
            raise problem or next(filter(None, map(_problem_of, range(self.world), said)))
        if self.limit.next_step():
            _set_timeouts(self)
        return answer

    def check(self, stop: StopRequest) -> None:
        """Raise Interrupted on every rank if one was asked to stop. For a start, before any step: nothing is lost."""
        if self.maximum(int(bool(stop))):
            raise Interrupted("stopped before the work started; the same command starts it")

    def count_here(self) -> int:
        """Return how many ranks are on this machine. Every rank must call it."""
        return self.gather_texts(socket.gethostname()).count(socket.gethostname())

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum `tensor` over all ranks, in place, on the device where it is."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's `value` on every rank. It is sent as JSON, so nothing is unpickled."""
        self.limit.pause()
        if self.world == 1:
            return value
        data = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
        size = torch.tensor([data.numel()])
        dist.broadcast(size, src=0, group=self.control)
        if not self.is_main:
            data = torch.empty(int(size.item()), dtype=torch.uint8)
        dist.broadcast(data, src=0, group=self.control)
        return json.loads(bytes(data.tolist()))

    def on_main(self, work: Callable[[], Any]) -> Any:
        """Call `work` on rank 0, and return its result on every rank, sent as JSON. Every rank must call this.

        The other ranks wait as long as rank 0 works, also beyond the time limit of a collective, because a thread of
        rank 0 sends them a sign of life every few seconds. So `work` may write a large file to a slow file system.
        They get an error if rank 0 ends, or if its process is stopped. `work` must not call other ranks.
        """
        self.limit.pause()
        if self.world == 1:
            return work()
        if self.is_main:
            with self._signs_of_life():
                result = work()
            return self.broadcast([result])[0]
        while (answer := self.broadcast(None)) is None:
            pass
        return answer[0]

    @contextlib.contextmanager
    def _signs_of_life(self) -> Iterator[None]:
        """Broadcast None every few seconds, from a thread, until the end of the block."""
        ended = threading.Event()
        errors: list[RuntimeError] = []

        def send() -> None:
            try:
                while not ended.wait(SIGN_OF_LIFE_SECONDS):
                    self.broadcast(None)
            except RuntimeError as error:  # another rank has ended
                errors.append(error)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        if errors:
            raise errors[0]

    def gather_texts(self, text: str) -> list[str]:
        """Return the `text` of every rank, in rank order, on every rank."""
        mine = torch.tensor(list(text.encode("utf-8", "surrogateescape")), dtype=torch.uint8)
        padded = torch.zeros(self.maximum(mine.numel()), dtype=torch.uint8)
        padded[: mine.numel()] = mine
        sizes = self.gather(torch.tensor([mine.numel()]))
        return [
            bytes(data[: int(size)].tolist()).decode("utf-8", "surrogateescape")
            for data, size in zip(self.gather(padded), sizes, strict=True)
        ]

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Return the CPU `tensor` of every rank, in rank order. All must have the same shape and dtype."""
        self.limit.pause()
        if self.world == 1:
            return [tensor]
        gathered = [torch.empty_like(tensor) for _ in range(self.world)]
        dist.all_gather(gathered, tensor, group=self.control)
        return gathered


_PROBLEM = 1_000_000  #: what a rank with a problem requests (`Ranks.agree`)


def _as_text(problem: TrexError | None) -> str:
    return "" if problem is None else json.dumps([int(problem.exit_code), socket.gethostname(), str(problem)])


def _problem_of(rank: int, text: str) -> TrexError | None:
    """Return the problem that a rank stated as a text, for the other ranks."""
    if not text:
        return None
    code, node, message = json.loads(text)
    kind = UserError if code == ExitCode.USER_ERROR else TrexError
    return kind(f"rank {rank} on {node}: {message}")


def _set_timeouts(ranks: Ranks) -> None:
    """Let all further collectives end after the present limit."""
    if ranks.world == 1:
        return
    on_gpu = ranks.device.type == "cuda"
    # NCCL waits longer, because it ends the process without a message.
    for group, factor in ((dist.group.WORLD, 2 if on_gpu else 1), (ranks.control, 1)):
        seconds = timedelta(seconds=ranks.limit.seconds * factor + SECONDS_TO_NOTICE)
        if hasattr(dist, "set_timeout"):
            dist.set_timeout(seconds, group)
        else:  # PyTorch before 2.13
            dist.distributed_c10d._set_pg_timeout(seconds, group)


@contextlib.contextmanager
def joined(
    rank: int, world: int, device: torch.device, store: Store | None, limit: TimeLimit | None = None
) -> Iterator[Ranks]:
    """Join the process group for the duration of the block.

    Args:
        rank: number of this process, 0 … world - 1.
        world: number of processes.
        device: device of this process; the backend is NCCL for a CUDA device and gloo for a CPU.
        store: key-value store that all ranks connect to; it may be None only if world is 1.
        limit: how long to wait for another rank.

    Raises:
        MachineLost: another rank has ended or does not answer, or the connection to it is lost.
    """
    limit = limit or TimeLimit()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        if world == 1:
            yield Ranks(rank, world, device, limit=limit)
            return
        assert store is not None, "several ranks need a store to connect to"
        try:
            store.set(f"place/{rank}", f"{socket.gethostname()}, process {os.getpid()}")
            yield _join(rank, world, device, store, limit)
        except RuntimeError as error:
            if not is_lost(error):
                raise
            raise MachineLost(_who_is_lost(error, rank, world, store, limit)) from error
    finally:
        limit.pause()
    # Skipped after an error: NCCL would wait here for the other ranks, which may wait for this one in a collective.
    # They get an error when this process ends.
    dist.destroy_process_group()


def _join(rank: int, world: int, device: torch.device, store: Store, limit: TimeLimit) -> Ranks:
    backend = "nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=limit.seconds + SECONDS_TO_NOTICE)
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=world, timeout=timeout,
        device_id=device if backend == "nccl" else None,
    )  # fmt: skip
    control: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=timeout)  # type: ignore[assignment]
    return Ranks(rank, world, device, control, limit)


def is_lost(error: Exception) -> bool:
    """Return whether an error only says that another rank is gone or silent, or that the network fails.

    That is so for every error of PyTorch's communication (its store, NCCL, gloo) that is not about a wrong call.
    """
    of_torch = any(one.__name__ == "DistError" for one in type(error).__mro__)
    return (of_torch or bool(_GLOO.search(str(error)))) and not _WRONG_CALL.search(str(error))


def _brief(error: Exception) -> str:
    """Return what an error says, without the path of gloo's source file and what it tells developers after it."""
    return re.sub(r"^\[\S*/gloo/\S+\] ", "gloo: ", str(error).strip().split("\n")[0]).partition(". ")[0]


def _who_is_lost(error: RuntimeError, rank: int, world: int, store: Store, limit: TimeLimit) -> str:
    """Return a message that names the ranks which do not report, after the connection to one was lost.

    Every rank whose collective failed reports it in the store. A rank that has ended or hangs does not.
    """
    said = _brief(error)
    silent = bool(re.search("timed? ?out", said, re.IGNORECASE))
    try:
        store.set_timeout(timedelta(seconds=_SECONDS_TO_REPORT))
        store.set(f"lost/{rank}", "silent" if silent else "ended")
        deadline = time.monotonic() + _SECONDS_TO_REPORT + (2.0 if rank == 0 else 0.0)  # rank 0 holds the store
        missing = [other for other in range(world) if other != rank]
        while missing and time.monotonic() < deadline:
            missing = [other for other in missing if not store.check([f"lost/{other}"])]
            time.sleep(0.1)
        reports = [store.get(f"lost/{other}") for other in range(world) if other not in missing]
        silent = silent or b"silent" in reports
        names = [f"rank {other} on {store.get(f'place/{other}').decode()}" for other in missing]
    except RuntimeError:
        names = ["rank 0"]
    if not names:
        return f"the connections between the ranks were lost, but all ranks are there: check the network ({said})"
    if not silent:
        return f"{', '.join(names)}: has ended; its log, in the same folder as this one, may say why ({said})"
    return (
        f"{', '.join(names)}: does not answer, and took more than {limit.seconds:g} s for a step "
        f"(limits.step_seconds; limits.start_seconds for the first one). If its process still runs, its log, in the "
        f"folder of this one, has the stack of what it is doing; otherwise its process or its node is stopped"
    )
