from __future__ import annotations

import warnings

import pytest
import torch

from qpass.torch_modes import kept_random_state


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> dict[int, torch.Tensor]:
    """Three GPUs that have nothing but a random state."""
    states = {index: torch.full((4,), index, dtype=torch.uint8) for index in range(3)}
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(states))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[int(device)].clone())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.update({int(device): state}))
    monkeypatch.setattr(torch.random, "_fork_rng_warned_already", False)
    return states


def test_the_random_state_of_every_gpu_is_restored(gpus: dict[int, torch.Tensor]) -> None:
    before, cpu = {index: state.clone() for index, state in gpus.items()}, torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with kept_random_state():
            torch.rand(3)
            for index in gpus:
                gpus[index] = torch.full((4,), 9, dtype=torch.uint8)
    assert all(torch.equal(gpus[index], state) for index, state in before.items())
    assert torch.equal(torch.get_rng_state(), cpu)
