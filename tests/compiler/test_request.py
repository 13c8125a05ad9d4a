"""A request is checked before any work, and carried out on the device that it names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn

from qpass.compiler.request import Request, _moved
from qpass.config import QuantConfig
from qpass.errors import ConfigError, TraceError


def request(**changes: Any) -> Request:
    given: dict[str, Any] = {
        "config": QuantConfig.from_any("w8a8"),
        "example_inputs": None,
        "transform_fn": None,
        "submodules": None,
        "dynamic_shapes": None,
        "device": None,
        "seed": 0,
        "checkpoint_dir": None,
        "max_memory": 1e9,
        "progress": False,
    }
    return Request(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed: got -1"),
        ({"device": "meta"}, "device: 'meta' holds no values"),
        ({"device": "no such device"}, "device: 'no such device' cannot be used"),
        ({"max_memory": "much"}, "max_memory"),
        ({"max_memory": -1}, "max_memory"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_as_it_is_made(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        request(**changes)


def test_what_is_no_model_is_refused_before_the_loader_is_read() -> None:
    def loader() -> Any:
        raise AssertionError("read")
        yield

    with pytest.raises(TraceError, match=r"model: got a int; expected a torch\.nn\.Module"):
        request().carry_out(3, loader())  # type: ignore[arg-type]


def test_a_whole_model_and_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), torch.randn(16, 8)
    whole = request(transform_fn=lambda row: row["x"]).carry_out(model, [{"x": x}])
    assert isinstance(whole, fx.GraphModule)
    parts = request(submodules=["0"]).carry_out(model, [x])
    assert not isinstance(parts, fx.GraphModule)
    assert isinstance(parts.get_submodule("0"), fx.GraphModule)
    torch.testing.assert_close(whole(x), model(x), rtol=0, atol=0.1)
    torch.testing.assert_close(parts(x), model(x), rtol=0, atol=0.1)


def test_a_network_comes_back_from_its_device_after_an_error() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ZeroDivisionError), _moved(model, "cpu"):
        1 / 0  # noqa: B018
    assert model.weight.device == torch.device("cpu")
    moved: list[Any] = []
    model.to = moved.append  # type: ignore[method-assign, assignment]
    with _moved(model, "cuda:7"):
        assert moved == ["cuda:7"]
    assert moved == ["cuda:7", torch.device("cpu")]
    with _moved(model, None):
        pass
    assert len(moved) == 2
