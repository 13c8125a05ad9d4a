"""Matches checkpoint folders to runs: records what a run depends on, and reports what differs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from qpass.config import QuantConfig
from qpass.data import ModelInputs
from qpass.errors import ConfigError, DistributedError
from qpass.runtime.atomic_write import write_whole
from qpass.runtime.distributed import Processes
from qpass.runtime.folder_lock import alone_in
from qpass.runtime.tensor_file import digest
from qpass.version import __version__

#: Name of the record beside the blocks of a run.
RECORD = "run.json"


def run_fingerprint(
    model: nn.Module, batches: Iterable[ModelInputs], config: QuantConfig, seed: int, processes: int = 1
) -> dict[str, Any]:
    """Returns what the result of a run depends on, keyed by the terms that errors use.

    Args:
        model: The float model.
        batches: Calibration batches; read once, one at a time.
        config: The recipe.
        seed: Random seed.
        processes: Number of processes that share the work.
    """
    state = model.state_dict()
    tensors = (leaf for batch in batches for leaf in pytree.tree_leaves(tuple(batch)) if isinstance(leaf, Tensor))
    return {
        "model": digest(f"{model} {list(state)}", state.values()),
        "calibration data": digest("", tensors),
        "config": json.loads(json.dumps(config.to_dict())),
        "seed": seed,
        "number of processes": processes,
        "version of qpass": __version__,
        "version of torch": torch.__version__,
    }


def check_agreement(processes: Processes, facts: Mapping[str, Any]) -> None:
    """Checks that all processes of a job perform the same run.

    Raises:
        DistributedError: Naming what differs in one of them.
    """
    for rank, others in enumerate(processes.gather(facts)):
        if others != facts:
            raise DistributedError(
                f"process {rank} does another run, whose {' and '.join(_differences(others, facts))}",
                where=f"process {processes.rank} of {processes.size}",
                expected="the same model, calibration data, config and seed in every process",
                hint="each process takes its own share of the batches; let the loader give all of them to all",
            )


@contextmanager
def locked_checkpoint_dir(folder: Path, facts: Mapping[str, Any], holds: str = "blocks") -> Iterator[None]:
    """Claims a folder for a run, or checks that it is the run's, and locks it until the block ends.

    Args:
        folder: The folder; created if missing.
        facts: What the run depends on.
        holds: What is kept there, for messages.

    Raises:
        ConfigError: If it cannot be created, or belongs to another run; the message names every
            difference.
        DataError: If another run is writing there, or it cannot be written to.
    """
    path = folder / RECORD
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot be made ({error.strerror})", where=f"checkpoint_dir {folder}") from error
    with alone_in(folder):
        known = _known(path)
        if known is None:
            write_whole(path, json.dumps(facts, indent=1))
        elif known != facts:
            raise ConfigError(
                f"holds {holds} of another run, whose {' and '.join(_differences(known, facts))}",
                where=f"checkpoint_dir {folder}",
                expected="the same model, calibration data, config and seed",
                hint="give another folder (--output), or delete this one (--discard)",
            )
        yield


def _known(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", where=f"checkpoint_dir {path.parent}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"its {RECORD} is damaged: {error}", where=f"checkpoint_dir {path.parent}", hint=f"delete {path}"
        ) from error


def _differences(known: Any, facts: Mapping[str, Any]) -> Iterator[str]:
    """Yields what differs, with the values if they are human-readable."""
    if not isinstance(known, dict):
        yield f"{RECORD} is no record"
        return
    for name in facts:
        there, here = known.get(name), facts[name]
        if there == here:
            continue
        if name == "config" and isinstance(there, dict):
            yield from (f"config has {change}" for change in _changes(there, here))
        elif name in ("model", "calibration data"):
            yield f"{name} differs"
        else:
            yield f"{name} is {there}, not {here}"


def _changes(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in dict.fromkeys([*there, *here]):
        old, new = there.get(key), here.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _changes(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key} = {old!r}, not {new!r}"
