"""The base class holds every pass to its contract."""

from __future__ import annotations

import pytest
from torch import Tensor, fx, nn

from qpass.compiler.pipeline import pipeline
from qpass.config import QuantConfig
from qpass.data import ModelInputs
from qpass.errors import PassError
from qpass.graph.capture.trace import trace
from qpass.passes import Pass, check_stages


def build(recipe: str, images: Tensor) -> list[Pass]:
    return pipeline(QuantConfig.from_any(recipe), [ModelInputs((images,), {})])


def test_a_pass_refuses_a_graph_at_another_stage(vit: nn.Module, images: Tensor) -> None:
    *_, freeze = build("w8a8", images)
    with pytest.raises(PassError, match="Freeze: the graph is at stage 'traced'; expected 'fitted'"):
        freeze(trace(vit, (images,)))


def test_a_list_that_does_not_join_is_refused(images: Tensor) -> None:
    first, _, third, *_ = build("w8a8", images)
    with pytest.raises(PassError, match="Canonicalize -> Calibrate: gives 'canonical', but the next pass takes 'annotated'"):
        check_stages([first, third])


def test_a_pass_that_hides_a_change_is_caught(vit: nn.Module, images: Tensor) -> None:
    class Liar(Pass):
        takes, gives = "traced", "canonical"

        def run(self, graph_module: fx.GraphModule) -> bool:
            node = next(n for n in graph_module.graph.nodes if n.op == "call_function" and len(n.users) == 1)
            node.replace_all_uses_with(node.args[0])
            return False

    with pytest.raises(PassError, match="reports no change and changed the graph") as caught:
        Liar()(trace(vit, (images,)))
    assert caught.value.__notes__ == ["in the pass Liar"]


@pytest.mark.parametrize("write", ["in place", "replaced"])
def test_a_pass_that_hides_a_changed_weight_is_caught(write: str, vit: nn.Module, images: Tensor) -> None:
    class Liar(Pass):
        takes, gives = "traced", "traced"

        def run(self, graph_module: fx.GraphModule) -> bool:
            name, weight = next(graph_module.named_parameters())
            if write == "in place":
                weight.mul_(2)
            else:
                owner, _, leaf = name.rpartition(".")
                setattr(graph_module.get_submodule(owner), leaf, nn.Parameter(weight.clone(), requires_grad=False))
            return False

    with pytest.raises(PassError, match="reports no change and changed the graph"):
        Liar()(trace(vit, (images,)))


def test_an_error_in_a_pass_names_the_pass(vit: nn.Module, images: Tensor) -> None:
    class Broken(Pass):
        takes, gives = "traced", "canonical"

        def run(self, graph_module: fx.GraphModule) -> bool:
            return bool(graph_module.nothing_of_that_name)

    with pytest.raises(AttributeError) as caught:
        Broken()(trace(vit, (images,)))
    assert caught.value.__notes__ == ["in the pass Broken"]
