"""Several processes share one run: ranges are those of one process to the bit, learning is shared, a dead process is noticed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import qpass
from qpass.observers import HistogramObserver, ProductObserver
from qpass.reconstruction.segments import AFTER_BLOCKS, BEFORE_BLOCKS
from qpass.runtime.distributed import Processes, job
from qpass.runtime.tensor_file import read_tensors

SHORT = {"ranks": [2, 4], "search_steps": 4, "steps": 20, "batch_size": 8, "curriculum_interval": 10, "precision": "float32"}

#: Quantizes in a job; ``sys.argv``: recipe, folder, where this process dies (a step, or -1), a number added to its images, the
#: rank that is given no folder, and the one that never begins, for which the others wait for 5 seconds.
SCRIPT = """
import datetime, json, os, signal, sys, time
import torch, torch.distributed as dist
import qpass
from qpass.progress import StepBar
from qpass.reconstruction import reconstruct
from tests.models import small_vit
recipe, folder, dies, shift = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
without_folder, absent = int(sys.argv[5]), int(sys.argv[6])
torch.set_num_threads(1)
steps = 0
class Counted(StepBar):
    def advance(self):
        global steps
        steps += 1
        if steps == dies:
            os.kill(os.getpid(), signal.SIGKILL)
        super().advance()
reconstruct.StepBar = Counted
if int(os.environ["WORLD_SIZE"]) > 1:
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=300 if absent < 0 else 5))
rank = int(os.environ["RANK"])
if rank == absent:
    time.sleep(600)  # it is killed once the others have ended
x = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(5)) + shift
try:
    blocks = None if rank == without_folder else folder + "/blocks"
    graph = qpass.quantize_graph(small_vit(), x.split(4), recipe, checkpoint_dir=blocks, progress=False)
except qpass.QPassError as error:
    print(f"error: {error}", file=sys.stderr, flush=True)
    os._exit(2)  # gloo may abort when it is torn down after the other process has gone
qpass.save(graph, __import__("pathlib").Path(folder) / f"{rank}.qpass")
"""


def start(
    recipe: Any,
    folder: Path,
    size: int = 2,
    dies: tuple[int, ...] = (),
    shift: tuple[float, ...] = (),
    without_folder: int = -1,
    absent: int = -1,
) -> list[tuple[int, str]]:
    """Runs the script in so many processes; returns the exit code and the errors of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(size):
        place = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, **{key: str(value) for key, value in place.items()}}
        arguments = [json.dumps(recipe), str(folder), str((*dies, -1, -1)[rank]), str((*shift, 0.0, 0.0)[rank])]
        arguments += [str(without_folder), str(absent)]
        command = [sys.executable, "-W", "ignore", "-c", SCRIPT, *arguments]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    errors = {rank: processes[rank].communicate(timeout=300)[1] for rank in range(size) if rank != absent}
    if absent >= 0:
        processes[absent].kill()
        errors[absent] = processes[absent].communicate()[1]
    ended = [errors[rank] for rank in range(size)]
    return [(process.returncode, errors) for process, errors in zip(processes, ended, strict=True)]


def run(recipe: Any, folder: Path, size: int) -> list[dict[str, Tensor]]:
    """Returns the tensors of each process's network."""
    folder.mkdir(exist_ok=True)
    ended = start(recipe, folder, size)
    assert [code for code, _ in ended] == [0] * size, ended
    return [read_tensors(folder / f"{rank}.qpass", expected="")[1] for rank in range(size)]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [pytest.param("w8a8", marks=pytest.mark.nightly), "repq-vit-w4a4"])
def test_two_processes_give_the_bits_of_one(recipe: str, tmp_path: Path) -> None:
    """Scales, zero points and codes: ranges are fitted on the same counts, behind the quantized network too."""
    (alone,) = run(recipe, tmp_path / "one", 1)
    first, second = run(recipe, tmp_path / "two", 2)
    assert same(first, alone)
    assert same(second, alone)


TABLE_OF_FIVE = {"preset": "codebook-w3a8", "rules": {"*": {"weight": {"channels_per_table": 5}}}}


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [*(pytest.param(recipe, marks=pytest.mark.nightly) for recipe in ("mixed-w4a5", "codebook-w3a8")), TABLE_OF_FIVE],
    ids=["uniform", "codebook", "table of five"],
)
def test_weights_that_make_up_for_rounding_are_those_of_one_process_but_for_the_order_of_sums(
    recipe: Any, tmp_path: Path
) -> None:
    (alone,) = run(recipe, tmp_path / "one", 1)
    first, second = run(recipe, tmp_path / "two", 2)
    assert same(first, second)
    codes = [name for name in alone if name.endswith("codes")]
    different = sum((first[name] != alone[name]).sum().item() for name in codes)
    assert different <= 1e-3 * sum(alone[name].numel() for name in codes)
    assert all(torch.equal(first[name], alone[name]) for name in alone if name.endswith("quantizer.scale"))


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["aiqvit-w4a4", pytest.param("ias-vit-w4a4", marks=pytest.mark.nightly)])
def test_processes_learn_the_same_network_together(preset: str, tmp_path: Path) -> None:
    learning = SHORT if preset.startswith("aiqvit") else {"steps": 20, "batch_size": 8}
    recipe = {"preset": preset, "reconstruction": learning}
    first, second = run(recipe, tmp_path, 2)
    assert same(first, second)
    report = qpass.quantization_report(qpass.load(tmp_path / "0.qpass"))
    blocks = [
        row for row in report.reconstruction if row.path not in (BEFORE_BLOCKS, AFTER_BLOCKS) and row.stage != "activations"
    ]
    assert len(blocks) == 2
    assert all(row.error_after < row.error_before for row in blocks)


@pytest.mark.slow
def test_a_dead_process_ends_the_job_with_a_message_and_it_goes_on(tmp_path: Path) -> None:
    recipe = {"preset": "aiqvit-w4a4", "reconstruction": SHORT}
    whole, _ = run(recipe, tmp_path / "whole", 2)
    folder = tmp_path / "killed"
    folder.mkdir()
    (code, errors), (killed, _) = start(recipe, folder, dies=(-1, 40))
    assert killed == -9
    assert code == 2
    assert "process 0 of 2: a process of the job has ended" in errors
    assert {path.name for path in (folder / "blocks").iterdir()} == {"run.json", "blocks.0.safetensors"}
    resumed, _ = run(recipe, folder, 2)
    assert same(resumed, whole)


@pytest.mark.slow
def test_processes_that_were_given_different_images_are_refused(tmp_path: Path) -> None:
    ended = start("w8a8", tmp_path, shift=(0.0, 1.0))
    assert [code for code, _ in ended] == [2, 2]
    assert "process 1 does another run, whose calibration data differs" in ended[0][1]


@pytest.mark.slow
def test_a_folder_for_one_process_only_is_refused(tmp_path: Path) -> None:
    ended = start({"preset": "aiqvit-w4a4", "reconstruction": SHORT}, tmp_path, without_folder=1)
    assert [code for code, _ in ended] == [2, 2]
    assert "process 1 does another run, whose checkpoint_dir is False, not True" in ended[0][1]


@pytest.mark.slow
def test_a_process_that_does_not_come_ends_the_wait_with_a_message(tmp_path: Path) -> None:
    ended = start("w8a8", tmp_path, absent=1)
    assert ended[0][0] == 2
    assert "process 0 of 2: a process of the job has ended, or cannot be reached" in ended[0][1]


def test_more_processes_than_batches_are_refused(images: Tensor, vit: torch.nn.Module) -> None:
    from qpass.compiler.pipeline import pipeline
    from qpass.data import ModelInputs
    from qpass.errors import DistributedError
    from qpass.runtime.distributed import Processes

    with pytest.raises(DistributedError, match="1 batches to calibrate on for 2 processes"):
        pipeline(qpass.QuantConfig(), [ModelInputs((images,), {})], processes=Processes(0, 2))


@pytest.mark.slow
def test_torchrun_runs_the_command(tmp_path: Path) -> None:
    x = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    np.savez(tmp_path / "images.npz", x=x.numpy())
    options = ["--calib", tmp_path / "images.npz", "--config", "w8a8", "--batch-size", 4, "--no-verify"]
    quantize = ["-m", "qpass", "quantize", "tests.models:small_vit", *map(str, options)]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "--standalone"]
    for name, command in {"one": quantize, "two": [*torchrun, *quantize]}.items():
        subprocess.run(
            [sys.executable, *command, "--output", str(tmp_path / name)],
            check=True,
            capture_output=True,
            timeout=300,
        )
    for name in ("model.onnx", "model.qpass"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(("count", "unit", "size"), [(10, 1, 2), (10, 4, 2), (3, 1, 4), (7, 3, 3), (8, 8, 2)])
def test_the_parts_of_all_processes_are_all_rows_in_whole_units(count: int, unit: int, size: int) -> None:
    parts = [list(range(count))[Processes(rank, size).part(count, unit)] for rank in range(size)]
    if -(-count // unit) < size:  # too few for all: everybody has all
        assert parts == [list(range(count))] * size
    else:
        assert [row for part in parts for row in part] == list(range(count))
        assert all(part and part[0] % unit == 0 for part in parts)
        units = [-(-len(part) // unit) for part in parts]
        assert max(units) - min(units) <= 1


def test_histograms_merge_as_if_one_had_seen_everything() -> None:
    x = torch.randn(6, 50, 3, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 6)[:, None, None]
    for axis in (None, -1):
        whole, *parts = (HistogramObserver("x", channel_axis=axis, bins=64) for _ in range(4))
        for index, batch in enumerate(x):
            whole.update(batch)
            parts[index % 3].update(batch)
        merged = parts[2]
        for part in (HistogramObserver("x", channel_axis=axis, bins=64), parts[0], parts[1]):
            merged.merge(part)
        for a, b in zip(merged.samples(), whole.samples(), strict=True):
            assert torch.equal(a, b)


def test_samples_of_products_merge_in_the_order_of_the_batches() -> None:
    batches = [(torch.randn(5, 7, 4), torch.randn(5, 4, 2)) for _ in range(13)]
    whole, *parts = (ProductObserver("x") for _ in range(3))
    for index, pair in enumerate(batches):
        whole.update(*pair)
        parts[index % 2].update(*pair)
    parts[1].merge([part.pairs for part in parts])
    assert len(whole.pairs) == len(parts[1].pairs)
    for (a, b), (c, d) in zip(whole.pairs, parts[1].pairs, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU")
def test_a_job_on_gpus_that_are_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(qpass.ConfigError, match=r"device: 'cuda:1' cannot be used"), job("cuda"):
        pytest.fail("the job began")
