"""What the machine has, and how to use it: the device, the number format, the memory allocator."""

import ctypes
import re
import sys

import torch

from errors import require


def pick_device(device):
    """The torch device that `auto` means here: cuda, else mps, else cpu. Raises UserError for one that is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, present in there.items() if present)
    proper = re.fullmatch(r"(cpu|mps|cuda(:\d+)?)", device) and there[device.split(":")[0]]
    require(proper, f"there is no device {device} here", "choose --device=auto")
    return device


def pick_dtype(dtype, device):
    """The name of the number format that `auto` means for matrix products on `device`.

    A CPU without a matrix unit (AMX) multiplies float32 faster than bfloat16.
    """
    if dtype != "auto":
        return dtype
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    return "bfloat16" if device == "cpu" and torch.cpu.get_capabilities().get("amx_bf16") else "float32"


def keep_freed_memory():
    """Let glibc keep the memory of large tensors instead of giving it back to the system at every step.

    Faulting the pages in again costs a sixth of a training step on a CPU. Elsewhere than on Linux nothing happens.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)  # musl has none
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
