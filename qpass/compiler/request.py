"""One ``quantize_graph`` call: checks the arguments, reads the data, and prepares the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from qpass.compiler.resume import check_agreement, locked_checkpoint_dir, run_fingerprint
from qpass.compiler.run import RunOptions, measure_model, quantize_model, quantize_submodules
from qpass.config import QuantConfig
from qpass.data import Batch, KeptBatches, ModelInputs, checked_batches
from qpass.data.batches import example_call
from qpass.graph.capture.already_quantized import refuse_quantized
from qpass.graph.capture.float_model import check_model, in_float32
from qpass.graph.device import to_device
from qpass.graph.edit import device_of
from qpass.graph.signature.input_dims import dims_left_open
from qpass.passes.analysis.tensor_sensitivity import Sensitivity
from qpass.runtime.arguments import check_seed, usable_device
from qpass.runtime.distributed import Processes
from qpass.runtime.storage import Storage, bytes_of


class Subject(NamedTuple):
    """What a run works on.

    Attributes:
        network: The float32 model.
        batches: All calibration data, moved to the working device when read.
        example: A call to trace the model with, on the working device.
        in_its_type: Converts inputs of the caller's model to those of ``network``.
    """

    network: nn.Module
    batches: KeptBatches
    example: ModelInputs
    in_its_type: Callable[[ModelInputs], ModelInputs]


@dataclass(kw_only=True)
class Request:
    """The checked arguments of ``qpass.quantize_graph``.

    Raises:
        ConfigError: If one of them is invalid.
    """

    config: QuantConfig
    example_inputs: Batch | None
    transform_fn: Callable[[Any], Batch] | None
    submodules: Sequence[str] | None = None
    dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None
    device: torch.device | str | None
    seed: int
    checkpoint_dir: str | Path | None = None
    max_memory: float
    progress: bool
    images: bool = True

    def __post_init__(self) -> None:
        self.storage = Storage(bytes_of(self.max_memory))
        self.device = None if self.device is None else usable_device(self.device)
        check_seed(self.seed)

    def with_config(self, config: QuantConfig, checkpoint_dir: Path | None) -> Request:
        """Returns the same request for another recipe; both keep values in one storage."""
        request = dataclasses.replace(self, config=config, checkpoint_dir=checkpoint_dir)
        request.storage = self.storage
        return request

    def carry_out(self, model: nn.Module, loader: Iterable[Batch]) -> nn.Module:
        """Returns the quantized network."""
        return self.quantize(self.read(model, loader))

    def read(self, model: nn.Module, loader: Iterable[Batch]) -> Subject:
        """Checks a model and reads all calibration data."""
        check_model(model)
        refuse_quantized(model, self.submodules or ())
        return self._read(model, loader)

    def quantize(self, subject: Subject) -> nn.Module:
        """Returns the quantized network of what was read."""
        network, batches, example, _ = subject
        home = device_of(network)
        with _moved(network, self.device), self._run(network, batches) as options:
            if self.submodules:
                names = self.submodules
                quantized = quantize_submodules(network, names, batches, self.config, options, self.dynamic_shapes)
            else:
                quantized = quantize_model(network, example, batches, self.config, options, self.dynamic_shapes)
            return to_device(quantized, home)

    def measure(self, subject: Subject) -> Sensitivity:
        """Returns what each tensor that the config quantizes costs the network's output."""
        network, batches, example, _ = subject
        with _moved(network, self.device):
            options = RunOptions(seed=self.seed, storage=self.storage, show_progress=self.progress)
            return measure_model(network, example, batches, self.config, options, self.dynamic_shapes)

    def _read(self, model: nn.Module, loader: Iterable[Batch]) -> Subject:
        network, in_its_type = in_float32(model)
        batches = KeptBatches(self.storage)
        own_shapes = self.submodules or self.dynamic_shapes is None
        open_dims = None if own_shapes else partial(dims_left_open, model, dynamic_shapes=self.dynamic_shapes)
        same_shapes = not self.submodules
        for batch in checked_batches(loader, model, self.transform_fn, same_shapes=same_shapes, open_dims=open_dims):
            batches.append(in_its_type(batch))
        given = self.example_inputs
        example = batches[0] if given is None else in_its_type(example_call(given, model, batches[0]))
        where = device_of(network) if self.device is None else self.device
        return Subject(network, batches.on(where), example.to(where), in_its_type)

    @contextmanager
    def _run(self, network: nn.Module, batches: KeptBatches) -> Iterator[RunOptions]:
        """Checks the run against other processes and the checkpoint folder, and locks the folder."""
        learns = self.config.reconstruction is not None
        folder = Path(self.checkpoint_dir) if learns and self.checkpoint_dir is not None else None
        processes = Processes.current()
        lock: AbstractContextManager[None] = nullcontext()
        if folder is not None or processes.size > 1:
            facts = run_fingerprint(network, batches, self.config, self.seed, processes.size)
            given = {"checkpoint_dir": folder is not None, "max_memory": self.max_memory, "submodules": self.submodules}
            check_agreement(processes, {**facts, **given, "dynamic_shapes": repr(self.dynamic_shapes)})
            if folder is not None and processes.first:
                lock = locked_checkpoint_dir(folder, facts)
        with lock:
            yield RunOptions(
                seed=self.seed,
                checkpoint_dir=folder,
                storage=self.storage,
                processes=processes,
                show_progress=self.progress and processes.first,
                images=self.images,
            )


@contextmanager
def _moved(network: nn.Module, device: torch.device | str | None) -> Iterator[None]:
    """Moves a network to a device, and back when the block ends; None leaves it where it is."""
    home = device_of(network)
    if device is not None:
        network.to(device)
    try:
        yield
    finally:
        if device is not None:
            network.to(home)
