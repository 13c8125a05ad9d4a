"""Load time and memory of a file, measured in separate processes.

The measuring process runs this file as a script and imports little besides onnxruntime: torch's
memory would hide the file's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


@dataclass(frozen=True)
class Footprint:
    """Size, load time and memory of one file.

    Attributes:
        size_mb: Size on disk in MB, external data included.
        load_ms: Milliseconds to create a session; median over processes.
        peak_mb: Peak resident memory in MB of a process that loads the file and runs it once,
            beyond that of a process that only imports onnxruntime.
    """

    size_mb: float
    load_ms: float
    peak_mb: float


def footprint(path: str | Path, *, batch: int = 1, threads: int = 1, processes: int = 5) -> Footprint:
    """Loads and runs a file in fresh processes.

    Args:
        path: The file.
        batch: Batch size of the run, if the file's batch is dynamic.
        threads: Intra-op threads.
        processes: Number of processes.

    Raises:
        LoweringError: If onnxruntime cannot load or run the file.
    """
    from qpass.backends.onnxruntime.session import OrtSession
    from qpass.errors import LoweringError

    found = []
    with tempfile.TemporaryDirectory() as folder:
        save_file(OrtSession(path, threads=threads).random_feed(batch), f"{folder}/feed")
        command = [sys.executable, "-P", __file__, str(path), f"{folder}/feed", str(threads)]
        for _ in range(processes):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                reason = done.stderr.strip().splitlines()[-1:] or [f"its process ended with code {done.returncode}"]
                raise LoweringError(f"onnxruntime does not run it: {reason[0][:300]}", where=str(path))
            found.append(json.loads(done.stdout))
    loads, peaks = ([each[key] for each in found] for key in ("load_ms", "peak_mb"))
    return Footprint(_file_bytes(Path(path)) / 1e6, float(np.median(loads)), float(np.median(peaks)))


def _file_bytes(path: Path) -> int:
    import onnx
    from onnx.external_data_helper import ExternalDataInfo

    model = onnx.load(str(path), load_external_data=False)
    beside = {ExternalDataInfo(tensor).location for tensor in model.graph.initializer if tensor.external_data}
    return sum(file.stat().st_size for file in (path, *(path.parent / name for name in beside)))


def _measure(path: str, feed_file: str, threads: int) -> dict[str, float]:
    import onnxruntime as ort

    feed = load_file(feed_file)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    before, start = _peak_bytes(), time.perf_counter()
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    load = time.perf_counter() - start
    session.run(None, feed)
    return {"load_ms": load * 1e3, "peak_mb": (_peak_bytes() - before) / 1e6}


def _peak_bytes() -> int:
    """Returns the peak resident memory of this process so far."""
    try:  # getrusage would include the parent's memory from when it started this process
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
