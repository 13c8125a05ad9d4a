"""Arguments of a run that cannot be used are refused before any work, and leave the model as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import qpass
from qpass.runtime.arguments import check_seed, usable_device


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("meta", "device: 'meta' holds no values; expected a device that torch has here"),
        ("banana", "device: 'banana' cannot be used: .*banana.*; expected a device that torch has here, such as cpu or cuda"),
        ("cpu:x", "device: 'cpu:x' cannot be used"),
        (3.5, "device: 3.5 cannot be used"),
        ("cuda:31", "device: 'cuda:31' cannot be used"),
    ],
)
def test_devices_that_are_not_there_are_refused(device: str, message: str, vit: nn.Module, images: Tensor) -> None:
    before = copy.deepcopy(vit.state_dict())
    with pytest.raises(qpass.ConfigError, match=message) as raised:
        qpass.quantize_graph(vit, [images], device=device, progress=False)
    assert "\n" not in str(raised.value)
    for name, value in vit.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_devices_that_are_there(device: torch.device | str) -> None:
    assert usable_device(device) == torch.device("cpu")


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70, 1.0, "1", None, True])
def test_what_is_no_seed_is_refused(seed: object, vit: nn.Module, images: Tensor) -> None:
    with pytest.raises(qpass.ConfigError, match=r"seed: got .*; expected an integer from 0 to 4294967295"):
        qpass.quantize_graph(vit, [images], seed=seed, progress=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_the_least_and_the_largest_seed(seed: int, vit: nn.Module, images: Tensor) -> None:
    check_seed(seed)
    graph = qpass.quantize_graph(vit, [images], "mixed-w4a5", seed=seed, progress=False)
    assert graph(images).isfinite().all()
