"""The processes that share one run: the few torch.distributed operations that calibration needs."""

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

#: Seconds that a process waits for the others before it raises. They normally communicate every few
#: seconds.
WAIT_SECONDS = 600


@contextmanager
def job(device: str | None) -> Iterator[str | None]:
    """Joins torchrun's job, if any, until the block ends; yields the device of this process.

    Args:
        device: ``"cuda"`` selects the GPU of the process's local rank. Tensors on GPUs are exchanged by
            nccl, others by gloo.

    Raises:
        ConfigError: If the machine has no GPU of that rank.
        DistributedError: If the process group cannot be initialized.
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
            f"the processes cannot connect: {error}", where="torch.distributed", hint="start the command with torchrun"
        ) from error
    try:
        yield device
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True)
class Processes:
    """This process's place in a job. Every process runs the same program on its share of the batches.

    Attributes:
        rank: Rank of this process, from 0.
        size: Number of processes; with 1, nothing is communicated.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Processes:
        """Returns the processes of torch.distributed's default group, or a single one without a group."""
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
        """Returns every process's value, in order of rank. Values are pickled, within one job only."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        self._call(lambda: dist.all_gather_object(values, value))
        return values

    def sum(self, tensor: Tensor) -> Tensor:
        """Returns the sum over all processes, bit-identical in each of them."""
        if self.size == 1:
            return tensor
        total = tensor.contiguous().clone()
        self._call(lambda: dist.all_reduce(total))
        return total

    def part(self, count: int, unit: int = 1) -> slice:
        """Returns this process's part of ``count`` rows, in whole units; all rows if some process had none."""
        units = -(-count // unit)
        if units < self.size:
            return slice(0, count)
        start, stop = (units * rank // self.size * unit for rank in (self.rank, self.rank + 1))
        return slice(start, min(stop, count))

    def join(self, tensor: Tensor, count: int, dim: int = 0) -> Tensor:
        """Returns the parts of all processes in order; ``tensor`` itself if it has all ``count`` rows."""
        if tensor.shape[dim] == count:
            return tensor
        return torch.cat(self.gather(tensor.cpu()), dim).to(tensor.device)

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replaces each gradient with its mean over all processes, in a single all-reduce."""
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


#: A single process that does all the work.
ALONE = Processes()
