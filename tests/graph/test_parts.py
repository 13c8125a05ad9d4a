"""Models that are quantized, exported, verified and run in parts."""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qpass
from qpass.data import KeptBatches, ModelInputs
from qpass.graph.parts import _agree, parts_of, trace_part
from qpass.runtime.storage import Storage
from qpass.zoo.mask_rcnn import PARTS, mask_rcnn
from tests.models import Branching, small_vit


class Pyramid(nn.Module):
    """Sizes are open: convolutions alone, and several maps by name."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        fine = self.embed(images)
        return OrderedDict(fine=self.mix(F.gelu(fine)), coarse=F.max_pool2d(fine, 2))


class Fixed(nn.Module):
    """Holds for one size: a weight for every place."""

    def __init__(self) -> None:
        super().__init__()
        self.place, self.layer = nn.Parameter(torch.randn(1, 4, 8)), nn.Linear(8, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer(tokens + self.place)


class Shell(nn.Module):
    """Control flow that depends on data around two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.pyramid, self.head = Pyramid(), nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 2))

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        found = []
        for image in images:
            maps = self.pyramid(image[None])
            tokens = maps["fine"].flatten(2).transpose(1, 2)[0]
            kept = tokens[tokens[:, 0] > maps["coarse"].mean() - 1]
            found.append(self.head(kept))
        return found


@pytest.fixture
def shell() -> nn.Module:
    torch.manual_seed(0)
    return Shell().eval()


def images(*sizes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, *size, generator=generator) for size in sizes]


BATCHES = [(images((16, 24), (24, 16)), "targets are not looked at"), (images((16, 16), (24, 24)), None)]


def test_a_model_runs_in_parts_as_it_did_in_one(shell: nn.Module, tmp_path: Path) -> None:
    quantized = qpass.quantize_graph(shell, BATCHES, "w8a8", submodules=["pyramid", "head"], progress=False)
    assert set(parts_of(quantized)) == {"pyramid", "head"}
    other = images((32, 8), (16, 40))
    expected, found = shell(other), quantized(other)
    for a, b in zip(found, expected, strict=True):
        assert abs(len(a) - len(b)) <= 2, "sizes that calibration had not"
    folder = qpass.export_onnx(quantized, tmp_path / "parts")
    assert sorted(path.name for path in folder.iterdir()) == ["head.onnx", "pyramid.onnx"]
    report = qpass.verify_onnx(quantized, folder, (other,))
    assert report.passed
    assert {check.name for check in report.checks} == {
        *(f"pyramid (batch, 3, {size}), as {how}" for size in ("32, 8", "16, 40") for how in ("written", "shipped")),
        *("head, as written", "head, as shipped"),  # rows are no form
    }
    runner = qpass.onnxruntime_model(quantized, folder)
    for a, b in zip(runner(other), found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-2)


def test_every_form_of_call_is_verified(shell: nn.Module, tmp_path: Path) -> None:
    quantized = qpass.quantize_graph(shell, BATCHES, "w8a8", submodules=["pyramid"], progress=False)
    folder = qpass.export_onnx(quantized, tmp_path / "parts")
    model = onnx.load(folder / "pyramid.onnx")  # holds for maps of four rows only: the first call has them, the second has not
    conv = next(node for node in model.graph.node if node.op_type == "MaxPool")
    sizes = onnx.numpy_helper.from_array(np.array([0, 0, 4, 0]), "fixed")
    model.graph.initializer.append(sizes)
    reshape = onnx.helper.make_node("Reshape", [conv.input[0], "fixed"], ["reshaped"])
    model.graph.node.insert(list(model.graph.node).index(conv), reshape)
    conv.input[0] = "reshaped"
    onnx.save(model, folder / "pyramid.onnx")
    first, second = images((16, 24), (24, 16))
    assert qpass.verify_onnx(quantized, folder, ([first],), strict=False).passed
    with pytest.raises(qpass.QPassError):
        qpass.verify_onnx(quantized, folder, ([first, second],))


def test_no_rows_are_no_trouble(shell: nn.Module, tmp_path: Path) -> None:
    quantized = qpass.quantize_graph(shell, BATCHES, "w8a8", submodules=["head"], progress=False)
    runner = qpass.onnxruntime_model(quantized, qpass.export_onnx(quantized, tmp_path / "parts"))
    assert runner.head(torch.zeros(0, 8)).shape == (0, 2)


def test_a_part_whose_size_is_fixed_holds_for_the_most_frequent_and_says_so() -> None:
    torch.manual_seed(0)

    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fixed, self.any = Fixed(), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.any(x)
            return self.fixed(y) if y.shape[1] == 4 else self.fixed(y[:, :4])

    model = Caller().eval()
    quantized = qpass.quantize_graph(
        model, [torch.randn(3, 4, 8), torch.randn(3, 6, 8)], submodules=["fixed", "any"], progress=False
    )
    assert quantized(torch.randn(2, 9, 8)).shape == (2, 4, 6)
    with pytest.raises(qpass.UnsupportedError, match=r"Fixed: got tokens \(2, 3, 8\).*expected \(batch, 4, 8\)"):
        quantized.fixed(torch.randn(2, 3, 8))


def test_sizes_that_cannot_be_open_are_left_out_with_a_warning() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if x.shape[1] % 4 == 0 else self.layer(F.pad(x, (0, 0, 0, 4 - x.shape[1] % 4)))

    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.windows = Windows()

        def forward(self, x: Tensor) -> Tensor:
            return self.windows(x) if x.sum().item() < 1e9 else x

    batches = [torch.randn(2, length, 8) for length in (8, 8, 6)]
    with pytest.warns(
        UserWarning, match=r"windows: its sizes cannot be open: it holds for \(batch, 8, 8\), which 2 of 3 calls"
    ):
        quantized = qpass.quantize_graph(Caller().eval(), batches, submodules=["windows"], progress=False)
    with pytest.raises(qpass.UnsupportedError, match=r"got \(batch, 6, 8\).*expected \(batch, 8, 8\)"):
        quantized(torch.randn(2, 6, 8))


def test_values_that_differ_between_calls_of_one_size_are_named() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor, scale: float = 1.0, name: str = "a") -> Tensor:
            return self.layer(x) * scale

    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Scaled()

        def forward(self, x: Tensor) -> Tensor:
            return self.part(self.part(self.part(x, 1.0, "a"), 2.0, "b"), 2.0, "a")

    differ = r"part: values that are no tensors differ between its calls \(scale is 1\.0 or 2\.0.*\).*, which 1 of 3 calls have"
    with pytest.warns(UserWarning, match=differ):
        qpass.quantize_graph(Caller().eval(), [torch.randn(2, 4, 8)], submodules=["part"], progress=False)


class Writes(nn.Module):
    """A part that scales its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x *= 2
        return self.layer(x)


def test_a_part_that_writes_into_its_input_does_not_change_the_recorded_calls() -> None:
    calls = KeptBatches(Storage())
    for tokens in (3, 5, 3):
        calls.append(ModelInputs((torch.ones(4, tokens, 8),), {}))
    _, used = trace_part(Writes().eval(), "part", calls)
    assert len(used) == 3
    assert all(torch.equal(call.args[0], torch.ones_like(call.args[0])) for call in used)


class HalfInside(nn.Module):
    """A part that computes under autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.layer(x).float()


def test_a_part_under_autocast_holds_for_all_its_sizes() -> None:
    calls = KeptBatches(Storage())
    for tokens in (3, 5, 3):
        calls.append(ModelInputs((torch.randn(4, tokens, 8),), {}))
    _, used = trace_part(HalfInside().eval(), "part", calls)
    assert len(used) == 3


def test_files_that_are_missing_are_named(shell: nn.Module, tmp_path: Path) -> None:
    quantized = qpass.quantize_graph(shell, BATCHES, "w8a8", submodules=["head"], progress=False)
    with pytest.raises(qpass.LoweringError, match="no such folder"):
        qpass.export_onnx(quantized, tmp_path / "no" / "parts")
    with pytest.raises(qpass.VerifyError, match=r"head.onnx: no such file"):
        qpass.onnxruntime_model(quantized, tmp_path)
    with pytest.raises(qpass.QPassError, match="got a Shell"):
        qpass.export_onnx(shell, tmp_path / "m.onnx")
    folder = qpass.export_onnx(quantized, tmp_path / "parts")
    with pytest.raises(qpass.VerifyError, match="not called with any row"):
        qpass.verify_onnx(quantized, folder, ([torch.full((3, 16, 16), -1e4)],))


def test_what_is_there_for_graphs_alone_says_how_to_ask_for_parts(shell: nn.Module, tmp_path: Path) -> None:
    quantized = qpass.quantize_graph(shell, BATCHES, "w8a8", submodules=["head"], progress=False)
    with pytest.raises(qpass.QPassError, match=r"got a Shell.*for each part: get_submodule\('head'\)"):
        qpass.quantization_report(quantized)
    path = qpass.save(quantized.get_submodule("head"), tmp_path / "head.qpass")
    x = torch.randn(3, 8)
    torch.testing.assert_close(qpass.load(path)(x), quantized.head(x))


def test_a_whole_graph_runs_in_onnxruntime_too(tmp_path: Path) -> None:
    model = Branching().backbone.eval()
    x = torch.randn(4, 8)
    quantized = qpass.quantize_graph(model, [x], progress=False)
    path = qpass.export_onnx(quantized, tmp_path / "m.onnx")
    torch.testing.assert_close(qpass.onnxruntime_model(quantized, path)(x), quantized(x), rtol=0, atol=1e-2)


def test_parts_without_blocks_are_not_learned() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = small_vit(), nn.Linear(10, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.backbone(x)
            return self.head(y) if y.sum().item() < 1e9 else y

    recipe = {"preset": "aiqvit-w4a4", "reconstruction": {"search_steps": 2, "steps": 2, "ranks": [2], "batch_size": 4}}
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    quantized = qpass.quantize_graph(Detector().eval(), [x], recipe, submodules=["backbone", "head"], progress=False)
    assert qpass.quantization_report(quantized.backbone).reconstruction
    assert not qpass.quantization_report(quantized.head).reconstruction
    with pytest.raises(qpass.UnsupportedError, match="no transformer block"):
        qpass.quantize_graph(Detector().eval(), [x], recipe, submodules=["head"], progress=False)


@pytest.mark.slow
def test_mask_rcnn_with_a_transformer_the_whole_way(tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = mask_rcnn(
        classes=3, size=64, channels=16, hidden=32, mask_layers=(16,), rpn_post_nms_top_n_test=20, box_detections_per_img=4,
        box_score_thresh=0.0,
        backbone_options={
            "window_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "out_indices": (0, 1),
        },
    )  # fmt: skip
    before = copy.deepcopy(detector.state_dict())
    pictures = [torch.rand(3, 50, 70), torch.rand(3, 64, 64)]
    quantized = qpass.quantize_graph(detector, [(pictures,)], "w8a8", submodules=PARTS, progress=False)
    assert qpass.quantization_report(quantized.backbone).counts["matmul"] == 4
    folder = qpass.export_onnx(quantized, tmp_path / "parts")
    assert qpass.verify_onnx(quantized, folder, (pictures,)).passed
    runner = qpass.onnxruntime_model(quantized, folder)
    with torch.no_grad():
        for own, file, picture in zip(quantized(pictures), runner(pictures), pictures, strict=True):
            assert own["masks"].shape == file["masks"].shape
            assert own["masks"].shape[2:] == picture.shape[1:]
            torch.testing.assert_close(file["scores"], own["scores"], rtol=0, atol=1e-2)
    assert all(torch.equal(before[name], value) for name, value in detector.state_dict().items()), "the model is left alone"


class Raises(nn.Module):
    """Fails as it is told to."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


CALL = ModelInputs((torch.ones(2, 3),), {})


@pytest.mark.parametrize("error", [RuntimeError("shape '[2, 4]' is invalid for input of size 6"), IndexError("out of range")])
def test_a_graph_that_cannot_compute_with_sizes_does_not_hold_for_them(error: Exception) -> None:
    assert not _agree(Raises(error), nn.Identity(), CALL)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        NotImplementedError("Could not run 'aten::linear' with arguments from the 'X' backend"),
        TypeError("unexpected argument"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_faults_are_no_matter_of_sizes(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)[:12]):
        _agree(Raises(error), nn.Identity(), CALL)


def test_an_error_of_the_part_itself_is_raised() -> None:
    with pytest.raises(RuntimeError, match="of the part"):
        _agree(nn.Identity(), Raises(RuntimeError("of the part")), CALL)
