"""What is wrong behind the last quantizer: verification refuses it and names the output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, fx, nn

import qpass
from qpass.errors import VerifyError
from tests.models import ManyOutputs, small_vit

Change = Callable[[np.ndarray], np.ndarray]


def changed(path: Path, folder: Path, name: str, change: Change) -> Path:
    """Writes the file with one initializer changed; one of 4 bits stays so."""
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    array = change(numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(onnx.helper.make_tensor(name, tensor.data_type, array.shape, array.reshape(-1)))
    onnx.save(model, folder / "changed.onnx")
    return folder / "changed.onnx"


def swap_two(array: np.ndarray) -> np.ndarray:
    array[..., [2, 5]] = array[..., [5, 2]]
    return array


def drop_one(array: np.ndarray) -> np.ndarray:
    array[..., 3] = 0
    return array


def scale_one(array: np.ndarray) -> np.ndarray:
    array[..., 3] *= np.float32(1.2)
    return array


HEAD: list[tuple[str, Change]] = [
    ("weight_scale", lambda scale: scale * np.float32(1.05)),
    ("weight_scale", scale_one),
    ("bias", drop_one),
    ("weight_codes", drop_one),
    ("weight_codes", swap_two),
]


@pytest.fixture(scope="module", params=["quantized", "quantized_4bit"])
def pair(request: pytest.FixtureRequest) -> tuple[fx.GraphModule, Path]:
    file = {"quantized": "exported", "quantized_4bit": "exported_4bit"}[request.param]
    return request.getfixturevalue(request.param), request.getfixturevalue(file)


def constant(path: Path, role: str) -> str:
    """Returns the name of the head's constant, whose codes may be packed."""
    names = [tensor.name for tensor in onnx.load(path, load_external_data=False).graph.initializer]
    return next(name for name in names if name.startswith(f"head_quantized.{role}"))


@pytest.mark.slow(after=1)
@pytest.mark.parametrize(("role", "change"), HEAD, ids=["scales", "column", "bias", "zero column", "classes swapped"])
def test_a_wrong_head_is_found(
    pair: tuple[fx.GraphModule, Path], role: str, change: Change, images: Tensor, tmp_path: Path
) -> None:
    graph, path = pair
    wrong = changed(path, tmp_path, constant(path, role), change)
    with pytest.raises(VerifyError, match=r"as written: output 'output': \d+ of \d+ values are wrong .* from head_quantized"):
        qpass.verify_onnx(graph, wrong, images)
    report = qpass.verify_onnx(graph, wrong, images[:1], strict=False)
    assert all(check.outputs[0].wrong for check in report.checks), "one sample is enough, in both ways of running it"


def test_the_last_layer_before_a_coarse_quantizer_is_compared_beneath_its_codes(
    pair: tuple[fx.GraphModule, Path], images: Tensor, tmp_path: Path
) -> None:
    graph, path = pair
    wrong = changed(path, tmp_path, "blocks_1_mlp_fc2_quantized.weight_scale", lambda s: np.append(s[:-1], s[-1:] * 1.02))
    report = qpass.verify_onnx(graph, wrong, images[:1], strict=False)
    layer = next(layer for layer in report.checks[0].layers if layer.quantizer == "select_quantizer")
    assert layer.off > 10
    assert "blocks_1_mlp_fc2_quantized" in layer.suspects
    with pytest.raises(VerifyError, match=r"select_quantizer: .*its input is .* from .*blocks_1_mlp_fc2_quantized"):
        qpass.verify_onnx(graph, wrong, images[:1])


@pytest.mark.slow
def test_a_quantized_head_is_not_a_float_one(images: Tensor, tmp_path: Path) -> None:
    vit = small_vit()
    whole = qpass.quantize_graph(vit, [images], "w8a8", progress=False)
    float_head = qpass.quantize_graph(vit, [images], {"preset": "w8a8", "rules": {"head": None}}, progress=False)
    whole_file, float_file = (qpass.export_onnx(g, tmp_path / f"{i}.onnx") for i, g in enumerate((whole, float_head)))
    assert qpass.verify_onnx(float_head, float_file, images).passed
    with pytest.raises(VerifyError, match="select_quantizer: the file quantizes here and the graph does not"):
        qpass.verify_onnx(float_head, whole_file, images)
    with pytest.raises(VerifyError, match="select_quantizer: the file holds no codes of this quantizer"):
        qpass.verify_onnx(whole, float_file, images)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[fx.GraphModule, Path, Tensor]:
    x = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    graph = qpass.quantize_graph(ManyOutputs().eval(), [x], "w8a8", progress=False)
    return graph, qpass.export_onnx(graph, tmp_path_factory.mktemp("many") / "m.onnx"), x


def test_outputs_of_every_kind_pass_and_infinite_values_are_where_they_belong(
    many: tuple[fx.GraphModule, Path, Tensor],
) -> None:
    graph, path, x = many
    assert torch.isinf(graph(x)["masked"]).any()
    report = qpass.verify_onnx(graph, path, x)
    assert [output.name for output in report.checks[0].outputs] == list(graph(x))
    assert {output.undecided for check in report.checks for output in check.outputs} == {0}
    assert report.verdict == "passed"


def test_a_small_output_does_not_hide_behind_a_large_one(many: tuple[fx.GraphModule, Path, Tensor], tmp_path: Path) -> None:
    graph, path, x = many
    wrong = changed(path, tmp_path, "small_quantized.weight_scale", lambda s: s * np.float32(1.002))
    report = qpass.verify_onnx(graph, wrong, x, strict=False)
    assert {output.name for check in report.checks for output in check.outputs if output.wrong} == {"small"}


def test_integers_and_booleans_are_compared_exactly(many: tuple[fx.GraphModule, Path, Tensor], tmp_path: Path) -> None:
    graph, path, x = many
    model = onnx.load(path)
    threshold = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and abs(_only(t) - 0.1) < 1e-6)
    threshold.CopyFrom(numpy_helper.from_array(np.float32(0.2).reshape(threshold.dims), threshold.name))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(VerifyError, match=r"output 'positive': \d+ of \d+ values are wrong"):
        qpass.verify_onnx(graph, tmp_path / "m.onnx", x)


def _only(tensor: onnx.TensorProto) -> float:
    array = numpy_helper.to_array(tensor)
    return float(array.reshape(-1)[0]) if array.size == 1 else float("nan")


def replace_output(path: Path, folder: Path, name: str, operator: str, *constants: float) -> Path:
    """Writes the file with one more operator before an output."""
    model = onnx.load(path)
    for node in model.graph.node:
        for names in (node.input, node.output):
            for place, other in enumerate(names):
                if other == name:
                    names[place] = f"{name}.before"
    tensors = [numpy_helper.from_array(np.array(value, np.float32), f"{name}.{i}") for i, value in enumerate(constants)]
    model.graph.initializer.extend(tensors)
    model.graph.node.append(onnx.helper.make_node(operator, [f"{name}.before", *(t.name for t in tensors)], [name]))
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.slow(after=2)
@pytest.mark.parametrize("name", ["boxes", "scores", "small", "hidden", "best", "positive", "masked"])
def test_each_output_is_compared_for_given_codes_and_running_freely(
    many: tuple[fx.GraphModule, Path, Tensor], name: str, tmp_path: Path
) -> None:
    graph, path, x = many
    operator, constants = {"best": ("Neg", ()), "positive": ("Not", ())}.get(name, ("Mul", (1.01,)))
    wrong = replace_output(path, tmp_path, name, operator, *constants)
    with pytest.raises(VerifyError, match=f"as written: output '{name}': .* values are wrong"):
        qpass.verify_onnx(graph, wrong, x)
    for check in qpass.verify_onnx(graph, wrong, x, strict=False).checks:
        assert [output.name for output in check.outputs if output.wrong] == [name]
        is_float = graph(x)[name].is_floating_point()
        assert [output.name for output in check.outputs if output.error_ratio > 1.5] == [name] * is_float
        assert (check.error_ratio > 1.5) == is_float, "it does not hide among the others"


@pytest.mark.slow(after=3)
@pytest.mark.parametrize(
    ("operator", "constants"),
    [("Sqrt", ()), ("Mul", (float("inf"),)), ("Mul", (float("nan"),)), ("Clip", (-1e30, 1e30))],
    ids=["NaN for some", "infinite", "all NaN", "finite for infinite"],
)
@pytest.mark.parametrize("name", ["scores", "masked"])
def test_nan_and_infinite_values_are_refused_where_torch_has_none(
    many: tuple[fx.GraphModule, Path, Tensor], name: str, operator: str, constants: tuple[float, ...], tmp_path: Path
) -> None:
    if (name, operator) == ("scores", "Clip"):
        pytest.skip("all of them are finite")
    graph, path, x = many
    wrong = replace_output(path, tmp_path, name, operator, *constants)
    with pytest.raises(VerifyError, match=f"output '{name}'.*values are wrong"):
        qpass.verify_onnx(graph, wrong, x)
    report = qpass.verify_onnx(graph, wrong, x, strict=False)
    for check in report.checks:
        assert [output.name for output in check.outputs if output.misplaced] == [name], "running freely too"
    assert "FAILED" in str(report)


@pytest.mark.slow
def test_a_network_that_stays_float_is_compared_in_all_of_it(images: Tensor, tmp_path: Path) -> None:
    vit = small_vit()
    with pytest.warns(UserWarning, match="nothing was found to quantize"):
        graph = qpass.quantize_graph(vit, [images], {"preset": "w8a8", "rules": {"*": None}}, progress=False)
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    assert qpass.verify_onnx(graph, path, images).passed
    head = next(t.name for t in onnx.load(path).graph.initializer if t.name.startswith("head") and t.name.endswith("weight"))
    wrong = changed(path, tmp_path, head, lambda weight: weight * np.float32(1.002))
    with pytest.raises(VerifyError, match="output 'output'"):
        qpass.verify_onnx(graph, wrong, images)


class _Sizes(nn.Module):
    """A large class beside a small one."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 4)
        with torch.no_grad():
            self.head.weight[0] *= 1e4

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


@pytest.mark.parametrize("samples", [1, 8])
def test_a_small_class_does_not_hide_behind_a_large_one(samples: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 8)
    graph = qpass.quantize_graph(_Sizes().eval(), [x], "w8a8", progress=False)
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    assert qpass.verify_onnx(graph, path, x[:samples]).passed
    wrong = changed(path, tmp_path, "head_quantized.weight_scale", lambda s: s * np.array([1, 1, 1, 1.002], np.float32))
    (output,) = qpass.verify_onnx(graph, wrong, x[:samples], strict=False).checks[0].outputs
    assert output.wrong == samples + 2, "for torch's codes and for two rows of random ones, and in no other class"


def test_another_count_of_outputs_is_refused_by_name(many: tuple[fx.GraphModule, Path, Tensor], tmp_path: Path) -> None:
    graph, path, x = many
    model = onnx.load(path)
    del model.graph.output[-1]
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(VerifyError, match=r"the file has the 6 outputs \['boxes', .*expected the 7 of the graph"):
        qpass.verify_onnx(graph, tmp_path / "m.onnx", x)
