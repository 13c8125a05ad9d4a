from __future__ import annotations

import pytest
import torch
from torch.onnx._internal.exporter import _registration

from qpass.errors import DataError
from qpass.serialize.operators import OPERATORS, is_allowed, operator_by_name

#: What the exporter translates and no network for inference calls: losses, training, fake quantization.
NOT_FOR_INFERENCE = (
    "_prelu_kernel",
    *("_embedding_bag", "_embedding_bag_forward_only", "_grouped_mm", "_native_batch_norm_legit_functional", "_unique"),
    *("_scaled_dot_product_efficient_attention", "_scaled_dot_product_flash_attention", "cross_entropy_loss"),
    *("_scaled_dot_product_flash_attention_for_cpu", "embedding_renorm", "fake_quantize_per_channel_affine", "logdet"),
    *("_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "native_batch_norm"),  # read beyond their arguments
    *("fake_quantize_per_tensor_affine", "mse_loss", "nll_loss", "nll_loss_forward", "normal_functional", "tensor"),
)
#: Operators that read, write, print, or change what they are given.
HARMFUL = (
    *("aten.from_file.default", "aten.add_.Tensor", "aten.add.out", "aten.set_.source_Tensor", "aten._print.default"),
    *("profiler._record_function_enter.default", "aten.save.default", "aten._assert_async.msg", "prim.Print.default"),
    *(
        "aten._reshape_alias.default",
        "aten.native_batch_norm.default",
        "aten.resize_.default",
        "aten.manual_seed.default",
        "aten.record_stream.default",
        "c10d_functional.wait_tensor.default",
    ),
)


def test_every_operator_of_the_list_exists_and_is_found_by_its_name() -> None:
    import torchvision  # noqa: F401 (registers operators)

    for name in OPERATORS:
        namespace, operator = name.split(".")
        packet = getattr(getattr(torch.ops, namespace), operator)
        overloads = [getattr(packet, overload) for overload in packet.overloads()]
        assert any(map(is_allowed, overloads)), name
        for overload in filter(is_allowed, overloads):
            assert operator_by_name(str(overload), "node") is overload


def test_the_list_holds_what_the_exporter_translates() -> None:
    known = map(str, _registration.ONNXRegistry.from_torchlib().functions)
    names = {name.removeprefix("aten::").partition(".")[0] for name in known if name.startswith("aten::")}
    assert {f"aten.{name}" for name in names} - OPERATORS == {f"aten.{name}" for name in NOT_FOR_INFERENCE}


@pytest.mark.parametrize("name", HARMFUL)
def test_operators_that_do_more_than_compute_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"node: calls .*; expected an operator that a file may call"):
        operator_by_name(name, "node")


def test_no_operator_of_the_list_takes_a_path() -> None:
    for name in OPERATORS:
        namespace, operator = name.split(".")
        packet = getattr(getattr(torch.ops, namespace), operator)
        for overload in filter(is_allowed, (getattr(packet, one) for one in packet.overloads())):
            texts = {argument.name for argument in overload._schema.arguments if "str" in str(argument.type)}
            assert not texts & {"filename", "path", "file", "url"}
