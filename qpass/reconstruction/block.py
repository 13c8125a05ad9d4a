"""Learns one calibrated block: chooses parameters, trains, and merges back into one integer weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, fx, nn

from qpass.config.options import CodeZero, LearnedWeights, Precision
from qpass.config.reconstruction import ReconstructionConfig
from qpass.graph.edit import argument, aten, calls, fetch, get_plan
from qpass.nn import CompensatedLinear, QuantizedLayer, QuantizedLinear, ResidualFactor
from qpass.passes.add_residual import tie_residual_scales
from qpass.quantizers import Codebook, DynamicFocus, Quantizer, Uniform
from qpass.reconstruction.learner import BlockLearner
from qpass.reconstruction.network_loss import NetworkLoss
from qpass.reconstruction.record import BlockRecord, RankSearch
from qpass.reconstruction.samples import batches_of
from qpass.reconstruction.segments import Segment
from qpass.runtime.distributed import ALONE, Processes

#: What a saved block's tensors of LayerNorms are called, before their names.
_NORM = "norm "
#: Samples on which the starts of ``dynamic-focus`` quantizers are compared.
_START_SAMPLES = 128


class LearnableBlock:
    """A segment of a graph with its inputs and target outputs.

    Args:
        graph_module: The whole graph, which shares its modules with the segment.
        segment: The block.
        inputs: Returns the block's inputs for some samples.
        target: Returns the block's target output for some samples.
        samples: Number of samples.
        config: How the block is learned.
        network_loss: Error of the network's outputs; None if only the block's own counts.
        processes: Processes that learn it together, each from the same number of its own samples.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        segment: Segment,
        inputs: Callable[[Tensor | slice], tuple[Any, ...]],
        target: Callable[[Tensor | slice], Tensor],
        samples: int,
        config: ReconstructionConfig,
        network_loss: NetworkLoss | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self._graphs, self._segment = (graph_module, segment.graph_module), segment
        self._inputs, self._target, self._samples, self._config = inputs, target, samples, config
        self._network_loss, self._processes = network_loss, processes
        called = [node for node in segment.graph_module.graph.nodes if node.op == "call_module"]
        self._modules = {str(node.target): segment.graph_module.get_submodule(str(node.target)) for node in called}
        self._paths = {str(node.target): plan.path for node in called if (plan := get_plan(node)) is not None}
        self._norms = norm_constants(segment.graph_module, graph_module) if config.norm_learning_rate > 0 else {}

    def learn(self, generator: torch.Generator, on_step: Callable[[], None]) -> BlockRecord:
        """Learns the block in place and returns its record.

        An end of the network is restored if its error rises: steps that suit the blocks may be too large
        for it.
        """
        if not self._segment.is_end:
            return self._learn(generator, on_step)
        tensors, intervals = {name: tensor.clone() for name, tensor in self.state().items()}, self._intervals()
        learned = self._learn(generator, on_step)
        before = learned.error_before
        if learned.error_after <= before:
            return learned
        restored = BlockRecord(learned.path, before, before, learned.steps, intervals=intervals)
        self.load_state(tensors, restored)
        return restored

    def _learn(self, generator: torch.Generator, on_step: Callable[[], None]) -> BlockRecord:
        config, before = self._config, self._error()
        self._start_focus()
        layers = self._compensate(generator)
        constants = self._constants()
        parameters = [*self._trained(layers), *(constant for constant, _ in constants)]
        for parameter in parameters:
            parameter.requires_grad_()
        learner = BlockLearner(
            self._segment.graph_module,
            self._inputs,
            self._target,
            config,
            generator,
            self._samples,
            constants=constants,
            autocast=self._autocast,
            network_loss=self._network_loss,
            processes=self._processes,
            on_step=on_step,
        )
        searches = self._search(learner, layers)
        steps = learner.calibrate() if parameters else 0
        ranks = {self._paths[name]: layer.ranks[0] for name, layer in layers.items()}
        full = tuple(self._paths[name] for name, layer in layers.items() if layer.ranks[0] == min(layer.weight_shape))
        for name, layer in layers.items():
            self._swap(name, layer.merged())
        self._segment.graph_module.requires_grad_(False)
        for constant, _ in constants:
            constant.requires_grad_(False)
            constant.grad = None
        for module in self._segment.graph_module.modules():
            if isinstance(module, Quantizer):
                module.settle()
        tie_residual_scales(self._segment.graph_module)
        return BlockRecord(
            self._segment.path, before, self._error(), steps, ranks, self._intervals(), searches=searches, full_ranks=full
        )

    def _search(self, learner: BlockLearner, layers: dict[str, CompensatedLinear]) -> dict[str, RankSearch]:
        """Searches and chooses the rank of each layer that has several; returns how, by module path."""
        several = {name: layer for name, layer in layers.items() if len(layer.ranks) > 1}
        if not several:
            return {}
        entropies = learner.search(list(several.values()))
        found = {}
        for (name, layer), entropy in zip(several.items(), entropies, strict=True):
            found[self._paths[name]] = RankSearch(layer.ranks, tuple(layer.architecture().tolist()), entropy)
            layer.choose()
        return found

    def state(self) -> dict[str, Tensor]:
        """Returns every tensor that learning may have changed, by module and name."""
        modules = {
            f"{name}.{key}": tensor
            for name in self._modules
            for key, tensor in self._segment.graph_module.get_submodule(name).state_dict().items()
        }
        return modules | {f"{_NORM}{name}": tensor for name, tensor in self._norms.items()}

    def load_state(self, tensors: dict[str, Tensor], learned: BlockRecord) -> None:
        """Loads tensors returned by ``state``, and readings of ``dynamic-focus`` from the record."""
        for name, quantizer in self._focus().items():
            quantizer.code_zero = CodeZero(learned.intervals[name][2])
        for name in self._modules:
            prefix = f"{name}."
            own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            self._segment.graph_module.get_submodule(name).load_state_dict(own)
        for name, tensor in self._norms.items():
            with torch.no_grad():
                tensor.copy_(tensors[f"{_NORM}{name}"])

    def _start_focus(self) -> None:
        """Starts each ``dynamic-focus`` quantizer where the block's error is lowest; ties go to the fit."""
        if self._config.focus_learning_rate == 0:
            return
        for quantizer in self._focus().values():
            starts = dict.fromkeys(quantizer.starts(self._config.focus_starts))
            errors = {start: self._set_start(quantizer, start) for start in starts}
            quantizer.set_candidate(min(errors, key=errors.__getitem__))

    def _set_start(self, quantizer: DynamicFocus, start: tuple[float, float, CodeZero]) -> float:
        quantizer.set_candidate(start)
        return self._error(min(self._samples, _START_SAMPLES))

    def _compensate(self, generator: torch.Generator) -> dict[str, CompensatedLinear]:
        if self._config.weights != LearnedWeights.LOW_RANK:
            return {}
        layers = {
            name: CompensatedLinear(module, self._config.ranks, generator)
            for name, module in self._modules.items()
            if isinstance(module, QuantizedLinear) and module.quantizer is not None and not isinstance(module, ResidualFactor)
        }
        for name, layer in layers.items():
            self._swap(name, layer)
        return layers

    def _trained(self, compensated: dict[str, CompensatedLinear]) -> list[nn.Parameter]:
        """Returns the parameters that the calibration learns; the rank search handles its own."""
        parameters: list[nn.Parameter] = [p for layer in compensated.values() for p in (layer.A, layer.B)]
        if self._config.weights != LearnedWeights.FIXED:
            parameters += [m.weight for m in self._modules.values() if isinstance(m, ResidualFactor) and m.weight is not None]
        if self._config.weights == LearnedWeights.FULL:
            apart = (ResidualFactor, CompensatedLinear)
            layers = [m for m in self._modules.values() if isinstance(m, QuantizedLayer) and not isinstance(m, apart)]
            parameters += [p for layer in layers for p in (layer.weight, layer.bias) if p is not None]
        if self._config.focus_learning_rate > 0:
            parameters += [p for quantizer in self._focus().values() for p in (quantizer.b1, quantizer.b2)]
        if self._config.scale_learning_rate > 0:
            parameters += [module.scale for module in self._modules.values() if isinstance(module, Uniform)]
        return parameters

    def _constants(self) -> list[tuple[Tensor, float]]:
        """Returns what else the calibration learns, with learning rates: LayerNorms and levels of codebooks."""
        found = [(norm, self._config.norm_learning_rate * norm.abs().mean().item()) for norm in self._norms.values()]
        if self._config.scale_learning_rate > 0:
            books = [module for module in self._modules.values() if isinstance(module, Codebook)]
            found += [(book.levels_on_grid, self._config.scale_learning_rate * book.spacing) for book in books]
        return found

    def _swap(self, name: str, module: nn.Module) -> None:
        for graph in self._graphs:
            setattr(graph, name, module)

    def _intervals(self) -> dict[str, tuple[float, float, str]]:
        return {name: (focus.b1.item(), focus.b2.item(), focus.code_zero) for name, focus in self._focus().items()}

    def _focus(self) -> dict[str, DynamicFocus]:
        return {name: module for name, module in self._modules.items() if isinstance(module, DynamicFocus)}

    def _error(self, samples: int | None = None) -> float:
        """Returns squared output error over squared target, with a float32 forward.

        Args:
            samples: Number of samples, from the first; None takes all.
        """
        error = signal = 0.0
        with torch.no_grad():
            for part in batches_of(samples or self._samples, self._config.batch_size):
                target = self._target(part).double()
                output = self._segment.graph_module(*self._inputs(part))[-1].double()
                error += (output - target).square().sum().item()
                signal += target.square().sum().item()
        error, signal = self._processes.sum(torch.tensor([error, signal], dtype=torch.float64)).tolist()
        return error / signal if signal else 0.0

    def _autocast(self) -> AbstractContextManager[Any]:
        device = next((p.device for p in self._segment.graph_module.parameters()), torch.device("cpu"))
        precision = self._config.precision
        if precision == Precision.FLOAT32 or (precision == Precision.AUTO and not multiplies_bfloat16(device)):
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)


def norm_constants(block: fx.GraphModule, whole: fx.GraphModule) -> dict[str, Tensor]:
    """Returns the weights and biases of a block's LayerNorms that nothing else reads, by name."""
    readers = Counter(node.target for node in whole.graph.nodes if node.op == "get_attr" for _ in node.users)
    read = [argument(norm, *at) for norm in calls(block, aten.layer_norm.default) for at in ((2, "weight"), (3, "bias"))]
    constants = (node.target for node in read if isinstance(node, fx.Node) and node.op == "get_attr")
    return {str(name): fetch(block, str(name)) for name in constants if readers[name] == 1}


def multiplies_bfloat16(device: torch.device) -> bool:
    """Returns whether the device has bfloat16 hardware, which makes matmuls several times faster."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
