"""Inputs of unusual kinds and counts: taken as the float model takes them, or refused by name."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import qpass
from qpass import QPassError
from qpass.data.batches import ModelInputs
from tests.contracts.judge import check_files, judge, leaves, quantized, result_or_refusal, signal_to_error
from tests.contracts.unusual import Net, images, net


def with_keywords(s: Net, x: Tensor, **kw: Tensor) -> Tensor:
    return s.h(s.att(s.tok(x), attn_mask=kw["mask"][:, None, None] > 0).mean(1))


def _masked(rows: int, seed: int) -> dict[str, Tensor]:
    return {"x": images(rows, seed), "mask": (torch.rand(rows, 16, generator=torch.Generator().manual_seed(seed)) > 0.4).long()}


def test_keywords_reach_the_model(tmp_path: Path) -> None:
    judge(net(with_keywords), [_masked(16, 0), _masked(16, 1)], [_masked(5, 2)], folder=tmp_path)


def test_a_forward_of_any_arguments_is_taken(tmp_path: Path) -> None:
    def forward(s: Net, *a: Tensor, **k: Tensor) -> Tensor:
        return with_keywords(s, *a, **k)

    judge(net(forward), [_masked(16, 0), _masked(16, 1)], [_masked(5, 2)], folder=tmp_path)


@pytest.mark.slow
def test_one_positional_input_of_any(tmp_path: Path) -> None:
    def forward(s: Net, *a: Tensor, **k: Tensor) -> Tensor:
        return Net.forward(s, *a)

    judge(net(forward), [images(16), images(16, 1)], [images(5, 2)], folder=tmp_path)


def scaled(s: Net, x: Tensor, scale: float = 1.0) -> Tensor:
    return Net.forward(s, x) * scale


def test_python_arguments_that_differ_are_refused_by_name() -> None:
    batches = [{"x": images(8), "scale": 1.0}, {"x": images(8, 1), "scale": 50.0}]
    with pytest.raises(QPassError, match="scale"):
        quantized(net(scaled), batches)


def hidden(s: Net, x: Tensor, output_hidden_states: bool = False) -> Any:
    t = s.att(s.tok(x))
    return (s.h(t.mean(1)), t) if output_hidden_states else s.h(t.mean(1))


@pytest.mark.parametrize(
    ("forward", "name", "value", "other"), [(scaled, "scale", 2.0, 50.0), (hidden, "output_hidden_states", True, False)]
)
def test_a_python_argument_that_is_fixed_is_said_or_guarded(forward: Any, name: str, value: Any, other: Any) -> None:
    model, x = net(forward), images(8, 2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        graph = qpass.quantize_graph(model, [{"x": images(8, k), name: value} for k in range(2)], progress=False)
    assert signal_to_error(leaves(model(x, **{name: value})), leaves(graph(x=x, **{name: value}))) > 25
    found, refusal = result_or_refusal(lambda: graph(x=x, **{name: other}))
    messages = [refusal, *(str(warning.message) for warning in said)]
    if not any(name in message for message in messages):
        wanted = leaves(model(x, **{name: other}))
        assert len(leaves(found)) == len(wanted)
        assert signal_to_error(wanted, leaves(found)) > 25


def optional_mask(s: Net, x: Tensor, mask: Tensor | None = None) -> Tensor:
    return with_keywords(s, x, mask=mask) if mask is not None else Net.forward(s, x)


def test_a_later_batch_without_an_input_is_refused_by_name() -> None:
    with pytest.raises(QPassError, match="mask"):
        quantized(net(optional_mask), [_masked(8, 0), {"x": images(8, 1)}])


def test_labels_of_a_trainer_are_no_required_input() -> None:
    def forward(s: Net, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = Net.forward(s, x)
        loss = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
        return {**loss, "logits": logits}

    model = net(forward)
    batches = [{"x": images(8, k), "labels": torch.arange(8) % 5} for k in range(2)]
    graph, refusal = result_or_refusal(lambda: quantized(model, batches))
    if graph is None:
        assert "labels" in refusal
    else:
        assert signal_to_error([model(images(8, 2))["logits"]], [graph(x=images(8, 2))["logits"]]) > 25


def test_nested_inputs(tmp_path: Path) -> None:
    def forward(s: Net, inputs: dict[str, Any]) -> Tensor:
        return with_keywords(s, inputs["x"], mask=inputs["more"]["mask"])

    def batch(rows: int, seed: int) -> dict[str, Any]:
        masked = _masked(rows, seed)
        return {"inputs": {"x": masked["x"], "more": {"mask": masked["mask"]}}}

    judge(net(forward), [batch(16, 0), batch(16, 1)], [batch(5, 2)], folder=tmp_path)


class Sample(NamedTuple):
    """An input that holds tensors by name."""

    x: Tensor
    mask: Tensor


@pytest.mark.slow
def test_an_input_that_is_a_named_tuple(tmp_path: Path) -> None:
    def forward(s: Net, sample: Sample) -> Tensor:
        return with_keywords(s, sample.x, mask=sample.mask)

    batch = lambda rows, seed: {"sample": Sample(**_masked(rows, seed))}  # noqa: E731
    judge(net(forward), [batch(16, 0), batch(16, 1)], [batch(5, 2)], folder=tmp_path)


class TwoTowers(Net):
    """Images and texts, whose counts have nothing to do with one another -> (images, texts)."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.text = nn.Embedding(11, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        pictures = Net.forward(self, x)
        texts = self.text(self.att(self.words(ids)).mean(1))
        logits = pictures @ texts.T
        return logits, logits.T.softmax(-1)


def _pairs(pictures: int, texts: int, seed: int) -> dict[str, Tensor]:
    ids = torch.randint(0, 11, (texts, 7), generator=torch.Generator().manual_seed(seed))
    return {"x": images(pictures, seed), "ids": ids}


@pytest.mark.slow
@pytest.mark.parametrize(("pictures", "texts"), [(1, 3), (4, 3), (3, 3), (6, 1)])
def test_two_inputs_of_different_row_counts(pictures: int, texts: int, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TwoTowers().eval()
    batches = [_pairs(pictures, texts, seed) for seed in range(6)]
    others = [_pairs(pictures + 1, texts + 2, 8), _pairs(2, 5, 9), _pairs(1, 1, 10)]
    judge(model, batches, others, decibels=15.0, folder=tmp_path)


def _fixed(s: Net, x: Tensor) -> Tensor:
    t = s.tok(x)
    t = torch.cat([s.cls.expand(len(x), -1, -1), t], 1)
    return s.h(s.encoder(t)[:, 0])


def _encoder(s: Net) -> None:
    s.cls = nn.Parameter(torch.randn(1, 1, 32))
    s.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2)


def test_len_of_the_batch_is_named_with_its_line() -> None:
    with pytest.warns(UserWarning, match=r"(?s)test_unusual_inputs\.py.*x\.shape\[0\]"):
        qpass.quantize_graph(net(_fixed, init=_encoder), [images(4)], progress=False)


@pytest.mark.slow
def test_a_fixed_batch_of_sixteen(tmp_path: Path) -> None:
    judge(net(_fixed, init=_encoder), [images(16), images(16, 1)], [images(16, 2)], folder=tmp_path)


def test_a_fixed_batch_and_a_last_batch_that_is_smaller() -> None:
    model = net(_fixed, init=_encoder)
    graph = quantized(model, [images(16), images(16, 1), images(7, 3)])
    assert signal_to_error([model(images(16, 2))], [graph(images(16, 2))]) > 25


def test_batches_that_are_all_smaller_than_the_example() -> None:
    model = net(_fixed, init=_encoder)
    batches = [images(7), images(7, 1), images(7, 3)]
    graph, refusal = result_or_refusal(lambda: quantized(model, batches, example_inputs=images(16)))
    if graph is None:
        assert "16" in refusal
    else:
        assert signal_to_error([model(images(16, 2))], [graph(images(16, 2))]) > 25


@pytest.mark.slow
def test_a_model_of_one_batch_only(tmp_path: Path) -> None:
    def forward(s: Net, x: Tensor) -> Tensor:
        return s.h(s.att(s.tok(x)).reshape(6, 16, 32).mean(1))

    judge(net(forward), [images(6), images(6, 1)], [images(6, 2)], folder=tmp_path)


def _rows_squeezed(s: Net, x: Tensor) -> Tensor:
    return s.h(s.att(s.tok(x)).squeeze(0).mean(-2))


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("rows", [1, 4])
def test_a_squeeze_of_the_batch(rows: int, tmp_path: Path) -> None:
    """The graph takes as many rows as it was calibrated with: one row has another shape."""
    batches = [images(rows, seed) for seed in range(12)]
    judge(net(_rows_squeezed), batches, [images(rows, 20)], decibels=15, folder=tmp_path)


def test_one_row_that_is_treated_differently_is_named() -> None:
    def forward(s: Net, x: Tensor) -> Tensor:
        return Net.forward(s, x) * (2 if x.shape[0] == 1 else 1)

    with pytest.warns(UserWarning, match=r"fixed at 8, .*test_unusual_inputs\.py:\d+ treats one row differently"):
        qpass.quantize_graph(net(forward), [images(8)], progress=False)


def test_a_loader_that_refills_one_buffer() -> None:
    def refilled() -> Iterator[Tensor]:
        buffer = torch.empty(8, 3, 32, 32)
        for seed, size in ((0, 1.0), (1, 10.0), (2, 0.01)):
            yield buffer.copy_(images(8, seed) * size)

    model, x = net(), images(8, 3) * 10
    separate = [images(8, seed) * size for seed, size in ((0, 1.0), (1, 10.0), (2, 0.01))]
    graph = quantized(model, refilled())  # type: ignore[arg-type]
    torch.testing.assert_close(graph(x), quantized(model, separate)(x), rtol=0, atol=0)


@pytest.mark.slow
def test_verification_takes_the_inputs_that_the_model_takes(tmp_path: Path) -> None:
    graph = quantized(net(with_keywords), [_masked(16, 0)])
    check_files(graph, [ModelInputs((images(3),), {"mask": _masked(3, 1)["mask"]})], tmp_path)
