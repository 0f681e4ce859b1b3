"""What the machine has, and how to use it: the device, the number format, the memory allocator."""

import contextlib
import ctypes
import functools
import math
import os
import re
import sys
import time
import warnings
from typing import Literal

import torch
import torch.utils.checkpoint

from miniglm.errors import refuse

DTYPES = ("float32", "bfloat16", "float16")  # of the matrix products
WeightDtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]  # auto: as stored; others: see cast_weights


def pick_device(device: str) -> str:
    """The torch device that `auto` means here: cuda, else mps, else cpu. Raises UserError for one that is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, present in there.items() if present)
    known = re.fullmatch(r"(cpu|mps|cuda(:\d+)?)", device)
    refuse(not known or not there[device.split(":")[0]], f"there is no device {device} here", "choose --device=auto")
    return device


def pick_dtype(dtype: str, device: str) -> str:
    """The name of the number format that `auto` means for matrix products on `device`.

    Among CPUs some multiply bfloat16 three times as fast as float32, some half as fast: one product of each is timed.
    """
    if dtype != "auto":
        return dtype
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    narrow_is_fast = device == "cpu" and 1.5 * product_seconds("bfloat16") < product_seconds("float32")
    return "bfloat16" if narrow_is_fast else "float32"


@functools.cache
def product_seconds(dtype: str, rows: int = 1024, inner: int = 512, columns: int = 1024) -> float:
    """The fastest of some (rows, inner) x (inner, columns) products on the CPU, in either layout of the second."""
    left, best = torch.ones(rows, inner, dtype=getattr(torch, dtype)), math.inf
    for right in (torch.ones(inner, columns, dtype=left.dtype), torch.ones(columns, inner, dtype=left.dtype).t()):
        for _ in range(4):
            started = time.perf_counter()
            left @ right
            best = min(best, time.perf_counter() - started)
    return best


def autocast_to(dtype: str, device_type: str):
    """A context, to be entered any number of times, in which matrix products run in `dtype`."""
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device_type, dtype=getattr(torch, dtype))


def cast_weights(model, dtype: str):
    """The model with its weights in `dtype`, for generation: float32 (as they are), bfloat16, float16 or int8.

    On a CPU float16 and int8 are FBGEMM's, and `model` itself is changed: the linear layers' weights are stored
    narrow, activations stay float32. For int8 the weights have a scale for each row; activations are rounded to 8 bits
    with one scale for the whole batch, so that an answer may differ with what else is in the batch. torch.ao's call
    for it is deprecated for torchao, whose CPU products without compiling are slower than float32
    (docs/experiments.md).
    """
    if dtype == "float32":
        return model
    on_cpu = model.device.type == "cpu"
    refuse(
        dtype == "int8" and not on_cpu, "int8 weights are for the CPU only", "choose --device=cpu or --dtype=float16"
    )
    if dtype == "bfloat16" or not on_cpu:
        return model.to(getattr(torch, dtype))
    engines = torch.backends.quantized.supported_engines
    refuse("fbgemm" not in engines, f"this CPU has no {dtype} products", "choose --dtype=float32 or --dtype=bfloat16")
    from torch.ao.quantization import (
        float16_dynamic_qconfig,
        per_channel_dynamic_qconfig,
        quantize_dynamic,  # ty: ignore[deprecated]
    )

    qconfig = per_channel_dynamic_qconfig if dtype == "int8" else float16_dynamic_qconfig
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return quantize_dynamic(model, {torch.nn.Linear: qconfig}, inplace=True)  # ty: ignore[deprecated]


@contextlib.contextmanager
def evaluating(model):
    """A context in which a model does not drop anything."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def prepare_cpu(keep_freed: bool):
    """Have PyTorch use this CPU well for training. keep_freed: trade memory for speed, see keep_freed_memory."""
    if keep_freed:
        keep_freed_memory()
    share_cores(int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def share_cores(processes: int):
    """Divide the CPU's cores among `processes` on this machine; torchrun would give each of them one thread.

    A number of threads above 1 that OMP_NUM_THREADS sets is kept.
    """
    if processes > 1 and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        physical = torch.cpu.get_capabilities().get("num_physical_cores", usable)
        torch.set_num_threads(max(1, min(usable, physical) // processes))


def compile_if_possible(model):
    """torch.compile's form of the model; where nothing can be compiled, the model itself, with a line that says so."""
    try:
        torch.compile(torch.cos)(torch.zeros(8, device=model.device))
    except Exception as error:  # a missing compiler shows in many ways
        problem = f"torch.compile does not work here ({type(error).__name__})"
        print(f"{problem}: going on without it; a C++ compiler may be missing")
        return model
    return torch.compile(model)


def checkpoint_gradients(model):
    """Have each block of a MiniGLM computed again when its gradients are, instead of keeping what it computed.

    In training memory falls to what stands between the blocks, for a third more work (Chen et al. 2016,
    arXiv:1604.06174). Dropout is drawn the same both times, so that no loss changes.
    """
    for block in model.blocks:
        block.forward = functools.partial(torch.utils.checkpoint.checkpoint, block.forward, use_reentrant=False)


def peak_memory(device: str = "cpu", of_children: bool = False) -> int | None:
    """The most memory in bytes that was taken so far: of a CUDA device by this process, else by the process itself.

    of_children: by the largest of its children that have ended. None where the system does not tell (Windows).
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_CHILDREN if of_children else resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def keep_freed_memory():
    """Let glibc keep the memory of large tensors instead of giving it back to the system at every step.

    Faulting the pages in again costs a sixth of a training step on a CPU. Elsewhere than on Linux nothing happens.
    """
    mapped_from(1 << 30, trim=(1 << 31) - 1)


def return_freed_memory():
    """Let glibc give back the memory of all tensors that are not tiny as soon as they are freed.

    By itself it keeps those below 32 MiB: what a model's layers took while they were read, one after the other, would
    stay. Elsewhere than on Linux nothing happens.
    """
    mapped_from(1 << 18, trim=1 << 18)


def mapped_from(size: int, trim: int):
    """Have glibc map blocks of so many bytes and more by themselves, and trim its heap where so many are free."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)  # musl has none
        mallopt(-3, size)  # M_MMAP_THRESHOLD
        mallopt(-1, trim)  # M_TRIM_THRESHOLD
