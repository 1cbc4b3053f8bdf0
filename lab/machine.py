"""The machine a run is on: what it is, and the settings of this process that make it fast."""

import ctypes
import os
import platform
import resource
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from lab.errors import UsageError
from lab.process import SPIN, TURNS, UNTUNED, started_joined

_PACKAGES = ("sequence-lab", "torch", "lightning", "numpy", "numba", "fla-core", "torchmetrics", "einops")
_M_MXFAST, _M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = 1, -1, -2, -4  # malloc.h


@cache
def tune() -> dict[str, Any]:
    """Set this process up for speed, once, and say what was set, here and before it started (lab/process.py).

    malloc keeps freed blocks, where it is glibc's: returning and faulting in large tensors costs up to half of a training
    step. Small ones it joins to their neighbours. Matrix products may use oneDNN's float32 kernels, if on this machine they
    are as exact as float32 can be (on a processor with bfloat16 matrix units the same switch rounds, and is left alone).
    `UNTUNED` in the environment leaves all as it is.
    """
    done: dict[str, Any] = {
        "malloc_keeps_blocks": False,
        "malloc_joins_blocks": False,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "threads_wait_briefly": os.environ.get(SPIN) == TURNS,
    }
    if os.environ.get(UNTUNED):
        return done
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 1 << 26))
        done["malloc_keeps_blocks"] = all(libc.mallopt(what, value) for what, value in settings)
        done["malloc_joins_blocks"] = bool(libc.mallopt(_M_MXFAST, 0)) and started_joined()
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    torch.set_float32_matmul_precision("medium")
    if (a @ b - exact).norm() < 1e-6 * exact.norm():
        done["matmul_precision"] = "medium, exact to float32"
    else:
        torch.set_float32_matmul_precision("highest")
    return done


def environment() -> dict[str, Any]:
    """Versions, code and hardware, for the record."""
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "commit": _commit(),
        "system": platform.platform(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "process": tune(),
    }


def device(name: str) -> torch.device:
    """`cpu`, `cuda` or one of several as `cuda:1`, as --device gives it.

    Raises:
        UsageError: torch knows no such device, or this machine has none.
    """
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise UsageError(f"--device {name}: write cpu, cuda, or one of several GPUs as cuda:1")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: torch finds {torch.cuda.device_count()} GPUs here; leave it out for the processor")
    return torch.device(name)


def reset_peak_memory(device: str = "cpu") -> None:
    """Start measuring peak memory anew, where the system can (Linux); else it is that of the whole process."""
    if device != "cpu":
        return torch.cuda.reset_peak_memory_stats(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def memory() -> int:
    """Bytes that a run may take: those of the GPU where there is one, else of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_memory() -> int:
    """Bytes that new processes may take: of the GPUs if there are any, else what the system, or its control group, has left."""
    if torch.cuda.is_available():
        return memory() * torch.cuda.device_count()
    left = [memory()]
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        left.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    with suppress(OSError, ValueError):  # a limit that is "max" is none
        group = Path("/sys/fs/cgroup")
        left.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(0, min(left))


def peak_memory(device: str = "cpu") -> int:
    """Bytes since the last reset: the largest resident size of this process, or the most that its tensors took of a GPU."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device)
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _commit() -> str | None:
    """The commit of the lab's own checkout, with a + if files differ from it; None outside a checkout."""
    here = Path(__file__).parent.parent
    if not (here / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--", "lab", "architectures", "tasks"],
            cwd=here, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


@cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
