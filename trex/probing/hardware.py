"""Where a probe computes: which device, how much of its memory, and whether it multiplies bfloat16 quickly."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from trex.errors import UserError

#: Flags of /proc/cpuinfo: processors with instructions for bfloat16 (x86: AVX-512 and AMX; Arm).
_BFLOAT16 = re.compile(r"^(?:flags|Features)\s*:.*\b(?:avx512_bf16|amx_bf16|bf16)\b", re.MULTILINE)
#: The share of a GPU's free memory that a probe may use.
_SHARE = 0.9


def device_of(wanted: str, given: torch.device) -> torch.device:
    """The device of a probe.

    Args:
        wanted: `probe.device`.
        given: the GPU of this process, or its CPU if it has none.

    Raises:
        UserError: if a GPU is wanted and there is none.
    """
    if wanted == "cuda" and given.type != "cuda":
        raise UserError(
            "probe.device is cuda, but this job has no GPU: set gpus_per_node: 1 for the stage probe in the cluster "
            "file, or probe.device=auto"
        )
    return torch.device("cpu") if wanted == "cpu" else given


def memory_of(device: torch.device, limit: float) -> float:
    """The memory that the exact solver may use on a device, bytes; on a CPU, that is `limit`."""
    return limit if device.type == "cpu" else _SHARE * torch.cuda.mem_get_info(device)[0]


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are faster than in float32. Without instructions for them, a CPU is much slower."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    try:
        return bool(_BFLOAT16.search(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")))
    except OSError:
        return False
