"""A run on random codes and another number of rows, to test what real codes leave untested."""

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
    """Torch's run of a graph in which every quantizer outputs random codes.

    Real codes leave weights untested: a unit that is off in all samples, or tokens that a class
    token's layer does not read. With a dynamic batch, the run has two rows, or three if the call
    has two. This costs less and catches files that work for only one number of rows. Inputs with
    their own row counts get different counts.

    Args:
        graph_module: A quantized graph.
        inputs: Inputs of one call.
        wide: ``widened(graph_module)``.
        storage: Keeps the inputs of quantizers; None keeps them in memory.

    Attributes:
        inputs: The inputs by name.
        run: The run, or None if the graph cannot run with such codes.
        left_out: What was not tested, and why; "" if nothing was left out.
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
            except (RuntimeError, IndexError, ValueError, QPassError) as error:  # such as codes used as indices
                message = next(iter(str(error).splitlines()), "")
                self.left_out = f"{what}, which the graph does not take ({type(error).__name__}: {message})"


class _RandomCodes:
    """Draws a quantizer's codes uniformly, except codes for 0: they would hide what they multiply."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, quantizer: Quantizer, x: Tensor) -> Tensor:
        least, greatest = quantizer.code_min, quantizer.code_max
        codes = torch.randint(least, greatest + 1, x.shape, generator=self._generator).to(quantizer.code_dtype)
        for other in (greatest, least):
            codes = torch.where(quantizer.decode(codes) == 0, other, codes)
        return codes.to(quantizer.code_dtype)


def _other_rows(graph_module: fx.GraphModule, inputs: ModelInputs) -> ModelInputs:
    """Returns a call with another number of rows if the batch is dynamic.

    Inputs with their own row counts get different counts.
    """
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
