"""Writes of every kind: the graph writes nothing and computes, at every batch and however often, what the model computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor, nn

from qpass.graph.capture.trace import trace
from tests.writing_programs import Call, Program, programs


def seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def check(model: nn.Module, *inputs: Tensor) -> None:
    """Compares graph and model twice in a row, at two batches."""
    graph = trace(model.eval(), tuple(tensor.clone() for tensor in inputs))
    for rows in (3, 1):
        for _ in range(2):
            given, expected_of = [[tensor[:rows].clone() for tensor in inputs] for _ in range(2)]
            with torch.no_grad():
                torch.testing.assert_close(graph(*given), model(*expected_of), rtol=1e-6, atol=1e-6, equal_nan=True)


def written(x: Tensor, write: Callable[[Tensor], object]) -> Tensor:
    y = x * 1
    write(y)
    return y


WRITES: dict[str, Callable[[Tensor], object]] = {
    "a slice of the last dim": lambda y: y[..., :2].mul_(8),
    "a row": lambda y: y[:, 1].fill_(2),
    "the last row": lambda y: y[:, -1].copy_(y[:, 0]),
    "every other row": lambda y: y[:, ::2].mul_(3),
    "a part of the batch": lambda y: y[:1].zero_(),
    "the batch but for one": lambda y: y[1:].add_(1),
    "an item": lambda y: y[:, 1, 2].sub_(1),
    "a slice of a slice": lambda y: y[:, 1:][..., 1:3].add_(5),
    "a row of a transposed view": lambda y: y.transpose(1, 2)[:, 1].mul_(2),
    "a permuted view": lambda y: y.permute(2, 0, 1)[1:].mul_(2),
    "mT": lambda y: y.mT[:, 2].mul_(2),
    "a moved dim": lambda y: y.movedim(1, 2)[..., 0].mul_(2),
    "a flat view": lambda y: y.view(y.shape[0], -1)[:, 3:7].fill_(-1),
    "an unflattened view": lambda y: y.unflatten(2, (2, 3))[..., 0, :].mul_(2),
    "a reshape": lambda y: y.reshape(-1, 6)[:, 0].mul_(2),
    "an unsqueezed view": lambda y: y.unsqueeze(1)[:, 0, 1].mul_(2),
    "a chunk": lambda y: y.chunk(3, -1)[1].mul_(2),
    "a split": lambda y: y.split([1, 2, 1], 1)[1].exp_(),
    "an unbound row": lambda y: y.unbind(1)[2].neg_(),
    "a narrow": lambda y: y.narrow(2, 1, 2).mul_(2),
    "a diagonal": lambda y: y.diagonal(0, 1, 2).fill_(1),
    "an upper diagonal": lambda y: y.diagonal(2, 1, 2).mul_(3),
    "a lower diagonal of dims in another order": lambda y: y.diagonal(-2, 2, 1).copy_(y.diagonal(1, 1, 2)),
    "a diagonal that is not there": lambda y: y.diagonal(6, 1, 2).fill_(3),
    "a contiguous view": lambda y: y.contiguous()[:, 0].mul_(2),
    "a detached view": lambda y: y.detach()[:, 0].mul_(2),
    "an expanded row as source": lambda y: y[:, 1:].copy_(y[:, :1]),
    "an assignment": lambda y: y.__setitem__((slice(None), 0), y[:, 1] * 2),
    "an assignment by indices": lambda y: y.__setitem__((slice(None), torch.tensor([0, 2])), 3.0),
    "an assignment by two indices": lambda y: y.__setitem__((slice(None), torch.tensor([0, 2]), torch.tensor([1, 1])), 3.0),
    "an assignment by a mask": lambda y: y.__setitem__(y > 0, 0.0),
    "masked_fill_": lambda y: y.masked_fill_(y > 0.5, float("-inf")),
    "index_fill_": lambda y: y.index_fill_(1, torch.tensor([1]), 4.0),
    "index_add_": lambda y: y.index_add_(1, torch.tensor([1, 1]), torch.ones(y.shape[0], 2, 6)),
    "index_copy_": lambda y: y.index_copy_(2, torch.tensor([3]), torch.ones(y.shape[0], 4, 1)),
    "index_put_": lambda y: y.index_put_((torch.arange(y.shape[0]), torch.tensor(2)), torch.ones(6), accumulate=True),
    "scatter_": lambda y: y.scatter_(1, torch.zeros(y.shape[0], 1, 6, dtype=torch.long), 7.0),
    "scatter_add_": lambda y: y.scatter_add_(1, torch.zeros(y.shape[0], 1, 6, dtype=torch.long), torch.ones(y.shape[0], 1, 6)),
    "relu_": lambda y: F.relu(y, inplace=True),
    "gelu by its pieces": lambda y: y.mul_(torch.sigmoid(y * 1.7)),
    "clamp_": lambda y: y.clamp_(-0.5, 0.5),
    "leaky_relu_": lambda y: F.leaky_relu_(y, 0.3),
    "hardtanh_": lambda y: F.hardtanh(y, inplace=True),
    "pow_": lambda y: y.pow_(2),
    "addcmul_": lambda y: y.addcmul_(y, y, value=0.5),
    "lerp_": lambda y: y.lerp_(torch.ones(6), 0.25),
    "tril_": lambda y: y.tril_(),
    "cumsum_": lambda y: y.cumsum_(1),
    "a comparison that keeps the type": lambda y: y.lt_(0.3),
    "a wider type": lambda y: y.add_(torch.ones(1, 4, 6, dtype=torch.float64)),
    "an integer source": lambda y: y.copy_(torch.arange(6)),
    "out=": lambda y: torch.mul(y, 2, out=y),
    "out= of a view": lambda y: torch.exp(y[:, 0], out=y[:, 1]),
    "two outs": lambda y: torch.max(y * 1, 1, out=(y[:, 0], torch.zeros(y.shape[0], 6, dtype=torch.long))),
    "addmm_ of a flat view": lambda y: y.view(-1, 6).addmm_(y.view(-1, 6), torch.eye(6)),
    "baddbmm_": lambda y: y.baddbmm_(y, torch.eye(6).expand(y.shape[0], 6, 6)),
    "a view that was made before": lambda y: (a := y[:, 0], y.mul_(2), a.add_(1)),
    "two views that overlap": lambda y: (a := y[:, :3], b := y[:, 1:], a.mul_(2), b.add_(1), a.neg_()),
    "a split that was made before": lambda y: (a := y.chunk(2, -1), y.mul_(2), a[0].add_(a[1])),
    "the same tensor as source": lambda y: y.add_(y),
    "one row after the other": lambda y: [y[:, i].add_(y[:, i - 1]) for i in range(1, 4)],
    "unsqueeze_ and squeeze_": lambda y: y.unsqueeze_(1).mul_(2).squeeze_(1),
    "transpose_": lambda y: y.transpose_(1, 2).mul_(torch.arange(4.0)).transpose_(1, 2),
    "detach_": lambda y: y.detach_().mul_(2),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_is_seen_by_the_tensor_and_by_views_made_before(write: Callable[[Tensor], object]) -> None:
    def function(m: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        y = x * 1
        row, turned, flat, (first, *_) = y[:, 1], y.transpose(1, 2), y.view(-1, 6), y.chunk(2, -1)
        before = row * 1
        write(y)
        return before, y * 1, row * 1, turned * 1, flat * 1, first * 1, y

    check(Call(function), seeded(3, 4, 6))


@pytest.mark.parametrize("write", [*WRITES][::8])
def test_a_write_into_the_input_is_not_seen_by_the_caller(write: str) -> None:
    model, x = Call(lambda m, x: (WRITES[write](x), x * 1)[1]), seeded(3, 4, 6)
    check(model, x)
    trace(model, (x,))(x)
    assert torch.equal(x, seeded(3, 4, 6))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(programs())
def test_programs(program: Program) -> None:
    """Views of views, written into and read in any order."""
    check(Call(lambda m, x: program.run(x)), seeded(3, 4, 6))
