"""Runs a file in OpenVINO on the CPU, with its float part in float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qpass.errors import LoweringError

#: OpenVINO computes floats in bfloat16 where the processor has it, unless it is told otherwise.
OPTIONS = {"INFERENCE_PRECISION_HINT": "f32"}


class OpenVinoSession:
    """A compiled file.

    Args:
        path: The file.
        threads: Threads; 0 means OpenVINO's default.
        profiled: Whether the time of each operator is measured.

    Raises:
        LoweringError: If OpenVINO is not installed or cannot load the file.
    """

    def __init__(self, path: str | Path, *, threads: int = 0, profiled: bool = False) -> None:
        try:
            import openvino
        except ImportError as error:
            raise LoweringError("OpenVINO is not installed", where=str(path), hint="pip install openvino") from error
        self._where, self._version = str(path), openvino.__version__
        options = OPTIONS | ({"INFERENCE_NUM_THREADS": str(threads)} if threads else {})
        options |= {"PERF_COUNT": "YES"} if profiled else {}
        try:
            self.compiled = openvino.Core().compile_model(str(path), "CPU", options)
        except Exception as error:  # OpenVINO raises RuntimeError, and others for files that it cannot read
            raise LoweringError(f"OpenVINO {self._version} cannot load it: {_first_line(error)}", where=self._where) from error
        self.output_names = [output.get_any_name() for output in self.compiled.outputs]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the file and returns its outputs by name.

        Args:
            inputs: All inputs by name.

        Raises:
            LoweringError: If OpenVINO fails.
        """
        try:
            results = self.compiled(dict(inputs))
        except Exception as error:  # as above
            raise LoweringError(f"OpenVINO {self._version} cannot run it: {_first_line(error)}", where=self._where) from error
        return dict(zip(self.output_names, (results[output] for output in self.compiled.outputs), strict=True))


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
