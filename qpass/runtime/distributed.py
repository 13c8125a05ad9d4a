"""The processes that share the work of one run: what torch.distributed does, in the few forms that calibration needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from qpass.errors import DistributedError
from qpass.runtime.arguments import usable_device

T = TypeVar("T")

#: How long a process waits for the others before it gives up with a message. What they do between two messages takes seconds.
WAIT_SECONDS = 600


@contextmanager
def job(device: str | None) -> Iterator[str | None]:
    """Joins the job that torchrun started, if it did, until the block ends; yields the device of this process.

    Args:
        device: ``"cuda"`` is the GPU of the process's number on its machine. Tensors there travel by nccl, others by gloo.

    Raises:
        ConfigError: If the machine has no GPU of that number.
        DistributedError: If the processes do not come together.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    on_gpu = device is not None and device.startswith("cuda")
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(usable_device(device))
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=timedelta(seconds=WAIT_SECONDS))
    except (RuntimeError, ValueError) as error:
        raise DistributedError(
            f"the processes do not come together: {error}", where="torch.distributed", hint="start the command with torchrun"
        ) from error
    try:
        yield device
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True)
class Processes:
    """This process among those of a job, each of which runs the same program on its share of the batches.

    Attributes:
        rank: Which of them this one is, from 0.
        size: How many there are; 1 does everything alone and sends nothing.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Processes:
        """Returns the processes of torch.distributed's default group, one alone where there is none."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Returns every ``size``-th item from ``rank`` on."""
        return items[self.rank :: self.size]

    def gather(self, value: T) -> list[T]:
        """Returns the value of each process, in order of rank. Values travel by pickle, between processes of one job."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        self._call(lambda: dist.all_gather_object(values, value))
        return values

    def sum(self, tensor: Tensor) -> Tensor:
        """Returns the sum over all processes, the same bits in each of them."""
        if self.size == 1:
            return tensor
        total = tensor.contiguous().clone()
        self._call(lambda: dist.all_reduce(total))
        return total

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replaces each gradient by its mean over all processes, in one message."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.size == 1 or not gradients:
            return
        mean = self.sum(torch.cat([gradient.reshape(-1) for gradient in gradients])) / self.size
        for gradient, part in zip(gradients, mean.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _call(self, send: Callable[[], Any]) -> None:
        try:
            send()
        except RuntimeError as error:
            first = next(iter(str(error).splitlines()), "")
            raise DistributedError(
                f"a process of the job has ended, or cannot be reached: {first[:160]}",
                where=f"process {self.rank} of {self.size}",
                hint="its own message says why; run the same command again to resume after the last finished block",
            ) from error


#: One process that does everything.
ALONE = Processes()
