"""An onnxruntime session on the CPU, with its optimised graph."""

from __future__ import annotations

import json
import math
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch.utils._pytree as pytree
from torch import Tensor

from qpass.backends.onnx_qdq.capabilities import WeightType, int8_matmul_is_exact
from qpass.backends.onnx_qdq.export import EXAMPLE_SIZES, WEIGHT_TYPE
from qpass.backends.onnxruntime.watchdog import WATCHDOG
from qpass.data import ModelInputs
from qpass.errors import LoweringError

_TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}

#: Time limit of a run: a file may contain an endless loop.
RUN_SECONDS = 300
#: Maximum elements of a random input.
LARGEST_INPUT = 2**30
#: Weights of at least this size are stored outside an optimised graph.
_BESIDE_BYTES = 2**20

#: Message for a file whose 8-bit products overflow on this processor.
OVERFLOW = (
    "sums of uint8 x int8 products overflow on this processor, so it computes another network here; export it with "
    "weight_type='uint8'"
)


class OrtSession:
    """Runs one file.

    Args:
        model: Path of the file, or a model.
        folder: Folder of a model's external weights.
        optimized: Whether onnxruntime optimises the graph (its default) or runs it as written.
        threads: Intra-op threads; 0 means onnxruntime's default, one per core.
        keep_graph: Keep the optimised graph, for ``operators`` and ``optimized_graph``.
        profile_to: File name prefix of a profile that onnxruntime writes.
        stop_spinning: Let threads sleep as soon as a run ends, so that they take no time from
            another session timed in turn.
        arena: Whether memory that a run frees is kept for the next one (onnxruntime's default) or
            returned.

    Warns if the file's 8-bit products overflow on this processor.

    Attributes:
        overflows: Whether they overflow.

    Raises:
        LoweringError: If onnxruntime cannot load the file.
    """

    def __init__(
        self,
        model: str | Path | onnx.ModelProto,
        *,
        folder: str | Path | None = None,
        optimized: bool = True,
        threads: int = 0,
        keep_graph: bool = False,
        profile_to: str | None = None,
        stop_spinning: bool = False,
        arena: bool = True,
    ) -> None:
        options = ort.SessionOptions()
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = arena
        options.log_severity_level = 4  # errors are raised instead
        if folder is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        if stop_spinning:
            options.add_session_config_entry("session.force_spinning_stop", "1")
        if profile_to is not None:
            options.enable_profiling, options.profile_file_prefix = True, profile_to
        self.optimized_graph: onnx.GraphProto | None = None
        source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
        self._where = where = "onnx model" if isinstance(model, onnx.ModelProto) else str(model)
        with tempfile.TemporaryDirectory() as scratch:
            if keep_graph:
                _write_graph_to(scratch, options)
            try:
                self.session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # onnxruntime's exception types differ between versions
                first = next(iter(str(error).splitlines()), "")
                raise LoweringError(f"onnxruntime {ort.__version__} cannot load it: {first[:300]}", where=where) from error
            if keep_graph:
                self.optimized_graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
        metadata = self.session.get_modelmeta().custom_metadata_map
        self._example_sizes = _read_sizes(metadata.get(EXAMPLE_SIZES, "{}"))
        self.overflows = metadata.get(WEIGHT_TYPE) == WeightType.INT8 and not int8_matmul_is_exact()
        if self.overflows:
            warnings.warn(f"{where}: {OVERFLOW}", stacklevel=2)
        self.input_names = [value.name for value in self.session.get_inputs()]
        self.output_names = [value.name for value in self.session.get_outputs()]

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Runs the file and returns its outputs by name.

        Args:
            inputs: All inputs by name.
            outputs: The outputs to compute, and nothing else; None runs the whole file.

        Raises:
            LoweringError: If onnxruntime fails, or does not finish within ``RUN_SECONDS``.
        """
        options = ort.RunOptions()
        options.only_execute_path_to_fetches = outputs is not None
        try:
            with WATCHDOG.limit(options, RUN_SECONDS):
                results = self.session.run(outputs, dict(inputs), options)
        except Exception as error:  # onnxruntime's exception types differ between versions
            if options.terminate:
                raise LoweringError(f"did not finish within {RUN_SECONDS} seconds", where=self._where) from error
            first = next(iter(str(error).splitlines()), "")
            raise LoweringError(f"onnxruntime {ort.__version__} cannot run it: {first[:500]}", where=self._where) from error
        return dict(zip(self.output_names if outputs is None else outputs, results, strict=True))

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Returns the first output for positional inputs, like a torch module."""
        result = self.session.run([self.output_names[0]], self.feed(ModelInputs(tensors, {})))[0]
        return torch.from_numpy(result)

    def feed(self, inputs: ModelInputs) -> dict[str, np.ndarray]:
        """Maps input names to the inputs of a call: keyword arguments by name, the others in order."""
        feed = {name: _array(value) for name, value in inputs.kwargs.items() if isinstance(value, Tensor)}
        free = [name for name in self.input_names if name not in feed]
        positional = [leaf for leaf in pytree.tree_leaves(inputs.args) if isinstance(leaf, Tensor)]
        feed.update({name: _array(value) for name, value in zip(free, positional, strict=False)})
        return {name: value for name, value in feed.items() if name in self.input_names}

    def random_feed(self, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
        """Returns seeded random inputs; an unknown dim 0 becomes ``batch``.

        Other unknown dims become the sizes with which the network was traced, or 1 if the file does not
        say them.

        Raises:
            LoweringError: If an input has more than ``LARGEST_INPUT`` elements.
        """
        generator = np.random.default_rng(seed)
        feed = {}
        for value in self.session.get_inputs():
            usual = dict(enumerate(self._example_sizes.get(value.name, ())))
            shape = [d if isinstance(d, int) else (batch if i == 0 else usual.get(i, 1)) for i, d in enumerate(value.shape)]
            if math.prod(shape) > LARGEST_INPUT:
                raise LoweringError(
                    f"input {value.name} has the shape {tuple(shape)}",
                    where=self._where,
                    expected=f"at most {LARGEST_INPUT} elements",
                )
            dtype: Any = _TYPES.get(value.type, np.float32)
            random = generator.standard_normal(shape) if dtype is np.float32 else np.ones(shape)
            feed[value.name] = random.astype(dtype)
        return feed

    @property
    def operators(self) -> Sequence[str]:
        """Operator types of the optimised graph, in order; needs ``keep_graph``."""
        return [node.op_type for node in self.optimized_graph.node] if self.optimized_graph is not None else []


def _write_graph_to(folder: str, options: ort.SessionOptions) -> None:
    """Makes a session write its optimised graph, with large weights outside.

    protobuf files cannot exceed 2 GiB.
    """
    options.optimized_model_filepath = f"{folder}/optimized.onnx"
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.data")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", str(_BESIDE_BYTES))


def _read_sizes(text: str) -> dict[str, list[int]]:
    """Returns the shapes in a file's ``EXAMPLE_SIZES``; empty if it is anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    shapes = found.values() if isinstance(found, dict) else [None]
    valid = all(isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape) for shape in shapes)
    return found if valid else {}


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy())
