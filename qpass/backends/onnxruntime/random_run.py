"""A run on random codes and another number of rows, which tries what the codes of real rows leave untried."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from qpass.backends.onnxruntime.torch_run import TorchRun
from qpass.data import ModelInputs
from qpass.data.rows import with_rows
from qpass.errors import QPassError
from qpass.graph.edit import flat_inputs, ordered_inputs
from qpass.graph.facts import facts_of
from qpass.graph.signature.input_check import named_inputs
from qpass.graph.signature.input_dims import layout_of, split_multiple
from qpass.quantizers import Quantizer
from qpass.runtime.storage import Storage


class RandomRun:
    """Torch's run of a graph in which every quantizer gives random codes.

    Real codes leave weights untried: a unit that is off in all samples, the tokens that a class token's layer does not read.
    Where the batch is dynamic the run has two rows, or three if the call has two: it costs less, and a file that holds for
    one number of rows fails. Inputs with row counts of their own get different ones.

    Args:
        graph_module: A quantized graph.
        inputs: One call of it.
        wide: ``widened(graph_module)``.
        storage: Keeps what quantizers are given; None keeps it in memory.

    Attributes:
        inputs: The inputs by name.
        run: The run, or None where the graph cannot compute with such codes.
        left_out: What was not tried, and why; "" where nothing was left out.
    """

    def __init__(
        self, graph_module: fx.GraphModule, inputs: ModelInputs, wide: fx.GraphModule, storage: Storage | None = None
    ) -> None:
        self.run: TorchRun | None = None
        self.left_out = ""
        calls = {"another number of rows": _other_rows(graph_module, inputs), "random codes": inputs}
        for what, call in calls.items():
            try:
                self.inputs = named_inputs(graph_module, call)
                self.run = TorchRun(graph_module, call, wide=wide, encode=_RandomCodes(), storage=storage)
                return
            except (RuntimeError, IndexError, ValueError, QPassError) as error:  # codes that are taken for indices
                message = next(iter(str(error).splitlines()), "")
                self.left_out = f"{what}, which the graph does not take ({type(error).__name__}: {message})"


class _RandomCodes:
    """Draws evenly from a quantizer's codes. Those for zero are replaced: they would hide what they are multiplied with."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, quantizer: Quantizer, x: Tensor) -> Tensor:
        least, greatest = quantizer.code_min, quantizer.code_max
        codes = torch.randint(least, greatest + 1, x.shape, generator=self._generator).to(quantizer.code_dtype)
        for other in (greatest, least):
            codes = torch.where(quantizer.decode(codes) == 0, other, codes)
        return codes.to(quantizer.code_dtype)


def _other_rows(graph_module: fx.GraphModule, inputs: ModelInputs) -> ModelInputs:
    """Returns a call with another number of rows where the batch is dynamic; row counts of their own become different ones."""
    if not facts_of(graph_module).dynamic_batch:
        return inputs
    ordered, layout = ModelInputs(*ordered_inputs(graph_module, *inputs)), layout_of(graph_module)
    tensors = [leaf for leaf in flat_inputs(graph_module, *ordered) if isinstance(leaf, Tensor)]
    own = {symbol: len(tensor) for symbol, tensor in zip(layout or (), tensors, strict=True) if symbol}
    counts = dict[str, int]()
    for name in dict.fromkeys(split_multiple(symbol)[1] for symbol in own):
        given = [size // split_multiple(symbol)[0] for symbol, size in own.items() if split_multiple(symbol)[1] == name]
        counts[name] = next(count for count in range(2, 4 + len(own)) if count not in given and count not in counts.values())
    rows = {symbol: split_multiple(symbol)[0] * counts[split_multiple(symbol)[1]] for symbol in own}
    return with_rows(ordered, rows, layout or ())
