"""The processes of a run. One process is a group of one, so that scripts need not ask how many there are."""

import contextlib
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from miniglm.machine import pick_device
from model import MiniGLM


@dataclass(frozen=True)
class Group:
    """The processes that train one model together, as one of them sees it."""

    rank: int  # which of them this one is
    size: int  # how many there are
    device: str  # what this one computes on: cpu, cuda:1, mps
    shards: bool = False  # whether each keeps a part of the weights, their gradients and the optimizer's state

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

    def place(self, model: MiniGLM) -> MiniGLM:
        """The model on this process's device, in place: all of it, or a part where the weights are shared out.

        Then whoever needs a block's weights gathers them for the moment (Zhao et al. 2023, arXiv:2304.11277), so that
        the model is to be called as a whole, in all processes. A device is given block after block, never all of it.
        """
        if not self.shards:
            return model.to(self.device)
        mesh = init_device_mesh(self.device_type, (self.size,))
        for part in [*model.blocks, model]:
            part.to(self.device)
            for tensor in part.state_dict().values():
                if not isinstance(tensor, DTensor):  # new weights were drawn by each
                    dist.broadcast(tensor, 0)
            fully_shard(part, mesh=mesh)
        return model

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as a network whose gradients are the mean of the processes' own after each backward pass."""
        if self.size == 1 or self.shards:  # fully_shard has seen to the gradients
            return model
        devices = [self.device] if self.device_type == "cuda" else None
        # No buffer changes; those of 4-bit weights would be sent at each step.
        return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)

    def syncing_only(self, last: bool, network: nn.Module):
        """A context in which gradients are shared among processes only where `last` is true."""
        if isinstance(network, FSDPModule):
            network.set_requires_gradient_sync(last)
        if last or not isinstance(network, DistributedDataParallel):
            return contextlib.nullcontext()
        return network.no_sync()

    def whole(self, state: Any) -> Any:
        """A state, nested dicts and lists of tensors, with its parts gathered; elsewhere than in `main` without them.

        All processes must ask for it.
        """
        if isinstance(state, DTensor):
            full = state.full_tensor()  # one at a time
            return full.cpu() if self.main else None
        if isinstance(state, dict):
            return {key: self.whole(each) for key, each in state.items()}
        return [self.whole(each) for each in state] if isinstance(state, list) else state

    def leave(self):
        """Take leave of the others, in good order."""
        if self.size > 1:
            dist.destroy_process_group()


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that may be shared out among the processes, which must all ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_like(value: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """This process's part of a tensor that every process has whole, where `other` is shared out; else the tensor."""
    if not isinstance(other, DTensor) or isinstance(value, DTensor):
        return value
    # Each takes its part of its own copy: nothing is sent.
    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def join(device: str, backend: str, shard: str = "no") -> Group:
    """The group that torchrun has made this process part of, or a group of one.

    device: as --device has it. backend: gloo, nccl, or auto: nccl on CUDA, gloo elsewhere. shard: fsdp shares out the
    weights, see Group.place. Raises UserError.
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
    return Group(rank, size, device, shard == "fsdp" and size > 1)


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
