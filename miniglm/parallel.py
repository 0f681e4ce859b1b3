"""The processes of a run. One process is a group of one, so that scripts need not ask how many there are."""

import contextlib
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from miniglm.machine import pick_device


@dataclass(frozen=True)
class Group:
    """The processes that train one model together, as one of them sees it."""

    rank: int  # which of them this one is
    size: int  # how many there are
    device: str  # what this one computes on: cpu, cuda:1, mps

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    @property
    def device_type(self) -> str:
        """cpu, cuda or mps."""
        return self.device.split(":")[0]

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of all processes' tensors, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Whether the flag is true in any process; all must know, or they would wait for each other for ever."""
        if self.size == 1:
            return flag
        return self.total(torch.tensor(float(flag), device=self.device)).item() > 0

    def first(self, value: float) -> float:
        """The first process's number, so that all decide alike."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return shared.item()

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as a network whose gradients are the mean of the processes' own after each backward pass."""
        if self.size == 1:
            return model
        devices = [self.device] if self.device_type == "cuda" else None
        # No buffer changes; those of 4-bit weights would be sent at each step.
        return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)

    def syncing_only(self, last: bool, network: nn.Module):
        """A context in which gradients are shared among processes only where `last` is true."""
        if last or not isinstance(network, DistributedDataParallel):
            return contextlib.nullcontext()
        return network.no_sync()

    def leave(self):
        """Take leave of the others, in good order."""
        if self.size > 1:
            dist.destroy_process_group()


def join(device: str, backend: str) -> Group:
    """The group that torchrun has made this process part of, or a group of one.

    device: as --device has it. backend: gloo, nccl, or auto: nccl on CUDA, gloo elsewhere. Raises UserError.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = pick_device(device)
    if size > 1:
        if backend == "auto":
            backend = "nccl" if device == "cuda" else "gloo"
        _meet_the_others(backend)
        if device == "cuda":
            device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(device)
    return Group(rank, size, device)


def _meet_the_others(backend):
    """Meet the other processes that torchrun has started, as torch.distributed.init_process_group does.

    torchrun keeps its store through its restarts, and what the dead have left there leads to nobody (pytorch issue
    135712). On one machine, where all count the restarts alike, each has a part of the store to itself.
    """
    env = os.environ
    if env.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and env.get("GROUP_WORLD_SIZE") == "1":
        store = dist.TCPStore(env["MASTER_ADDR"], int(env["MASTER_PORT"]), is_master=False)
        store = dist.PrefixStore(f"restart-{env['TORCHELASTIC_RESTART_COUNT']}", store)
        dist.init_process_group(backend, store=store, rank=int(env["RANK"]), world_size=int(env["WORLD_SIZE"]))
    else:
        dist.init_process_group(backend)
