"""The devices and the library versions of this process, which can change the last bits of a result."""

from __future__ import annotations

import platform
import re
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import device as Device

_PACKAGES = ("trex-toolkit", "torch", "torchvision", "numpy", "h5py", "submitit", "numba", "simplejpeg", "pillow")


def device_name(device: Device) -> str:
    """Return type and name of a device, such as `cuda: NVIDIA H100` or `cpu: x86_64`."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return f"{device.type}: {name}"


#: CUDA's errors of a GPU, its links or its driver: devices unavailable, ECC, NVLink, contained fault, hardware stack,
#: launch failure, system not ready, unknown. Not illegal addresses and wrong arguments, which are the program's.
_GPU_FAILURES = frozenset((46, 214, 220, 226, 714, 719, 802, 999))


def gpu_failure(error: BaseException) -> str:
    """Return what CUDA said if an error reports that a GPU failed; empty for any other error.

    Source: enum cudaError in NVIDIA's driver_types.h; PyTorch has the number in `AcceleratorError.error_code`.
    """
    if getattr(error, "error_code", None) not in _GPU_FAILURES:
        return ""
    return f"a GPU failed ({str(error).strip().splitlines()[0]})"


def cpu_name() -> str:
    """Return the model of this machine's CPUs, such as `AMD EPYC 9654 96-Core Processor`, or else their kind."""
    named = re.search(r"^model name\s*:\s*(\S.*)", _content("/proc/cpuinfo"), re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()


def library_versions(device: Device) -> dict[str, str]:
    """Return the versions of `CUDA`, `cuDNN`, `NCCL` and the `driver` of a CUDA device; empty for another device."""
    import torch

    if device.type != "cuda":
        return {}
    driver = re.search(r"Kernel Module\b.*?\s(\d[\d.]+)", _content("/proc/driver/nvidia/version"))
    nccl = torch.cuda.nccl.version() if torch.distributed.is_nccl_available() else ()  # type: ignore[no-untyped-call]
    found = {
        "CUDA": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "NCCL": ".".join(map(str, nccl)),
        "driver": driver and driver[1],
    }
    return {name: str(version) for name, version in found.items() if version}


def package_versions() -> dict[str, str | None]:
    """Return the version of each package that computes or stores results; None if it is not installed."""
    return {package: _version(package) for package in _PACKAGES}


def machine(device: Device) -> dict[str, str]:
    """Return what a checkpoint records of its machine: `device`, `python`, and the version of each package."""
    packages = {package: version or "not installed" for package, version in package_versions().items()}
    return {"device": device_name(device), "python": platform.python_version(), **packages}


def _content(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
