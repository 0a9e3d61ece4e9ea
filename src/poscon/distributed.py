"""Sums and concatenations over all processes of a distributed training, with their gradients.

Without a process group there is one process, and every function returns what it is given.

The gradients are those of the sum of all processes' losses, and DistributedDataParallel divides by
the number of processes. So if every process returns the loss of the whole batch, the parameters get
the gradient of that loss, as if one process had the whole batch. BatchNorm is an exception: it
normalises by the views of its own process, unless it is torch's SyncBatchNorm, which needs GPUs.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from poscon.progress import silent


def started_by_torchrun() -> bool:
    """Whether this is one of several processes that ``torchrun`` started."""
    return dist.is_torchelastic_launched() and os.environ["WORLD_SIZE"] != "1"


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Within it, this process is one of those that ``torchrun`` started, if it did.

    Each has a GPU of its own, or on the CPU its share of the cores.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    if not started_by_torchrun():
        yield
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        with silent() if rank() else nullcontext():
            yield
    finally:
        dist.destroy_process_group()


def wait_for_all() -> None:
    """Until every process is here."""
    if n_processes() > 1:
        dist.barrier()


def n_processes() -> int:
    """How many there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this one, from 0."""
    return dist.get_rank() if n_processes() > 1 else 0


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes, (B, ...) -> (processes * B, ...), in the order of their numbers.

    Every process must have the same number of rows.
    """
    return _Gather.apply(rows) if n_processes() > 1 else rows


def total(values: Tensor) -> Tensor:
    """The sum over all processes, in each of them."""
    return _Total.apply(values) if n_processes() > 1 else values


# torch.distributed.nn.functional has these, but deprecated; what it names instead is private.


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        everything = rows.new_empty((n_processes() * len(rows), *rows.shape[1:]))
        dist.all_gather_into_tensor(everything, rows.contiguous())
        return everything

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        own = gradient.new_empty((len(gradient) // n_processes(), *gradient.shape[1:]))
        dist.reduce_scatter_tensor(own, gradient.contiguous())
        return own


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Total.forward(ctx, gradient)
