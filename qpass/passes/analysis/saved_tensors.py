"""Keeps tensors that autograd saves for the backward pass in a storage."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from qpass.runtime.storage import SpilledTensor, Storage


def saved_in(storage: Storage, module: nn.Module) -> AbstractContextManager[None]:
    """Returns a context in which tensors that autograd saves go to a storage, except the module's own.

    Values and strides are restored, so derivatives are bit-identical.

    Args:
        storage: Where the tensors go.
        module: Module whose parameters and buffers stay where they are.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in [*module.parameters(), *module.buffers()]}

    def pack(tensor: Tensor) -> Tensor | _Saved:
        return tensor if tensor.untyped_storage().data_ptr() in own else _Saved(storage, tensor.detach())

    def unpack(saved: Tensor | _Saved) -> Tensor:
        return saved.read() if isinstance(saved, _Saved) else saved

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


class _Saved:
    """A tensor in a storage that comes back with its strides."""

    def __init__(self, storage: Storage, tensor: Tensor) -> None:
        order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
        in_order = tensor.permute(order)
        self._order = order if in_order.is_contiguous() else list(range(tensor.dim()))
        self._kept: SpilledTensor = storage.keep(tensor.permute(self._order))

    def read(self) -> Tensor:
        return self._kept.read().permute([self._order.index(dim) for dim in range(len(self._order))])
