"""What the script that runs a file prints and refuses; it is run here with qpass, and without it in test_script.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from qpass.backends.deployed.run import best, main, open_network, read_image, run
from qpass.data import ImageTransform

HOW = {"input": "x", **ImageTransform(crop=2, mean=(0.0,) * 3, std=(1.0,) * 3).to_dict(), "classes": ["cat", "dog"]}


def write_network(path: Path, *, batch: int | str = "batch", others: int = 0, metadata: dict[str, str] | None = None) -> Path:
    """A file that gives its input, flattened."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 2, 2])]
    inputs += [helper.make_tensor_value_info(f"mask_{i}", TensorProto.FLOAT, [1]) for i in range(others)]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Flatten", ["x"], ["logits"])], "g", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return path


def test_a_file_without_preprocessing_or_with_other_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"m\.onnx: does not say how its images are preprocessed"):
        open_network(write_network(tmp_path / "m.onnx"))
    with pytest.raises(SystemExit, match="has other inputs than images, mask_0: this script does not have them"):
        open_network(write_network(tmp_path / "m.onnx", others=1, metadata={"qpass.preprocessing": '{"input": "x"}'}))


@pytest.mark.parametrize("batch", ["batch", 1, 4])
def test_files_of_any_batch_size_give_one_row(batch: int | str, tmp_path: Path) -> None:
    path = write_network(tmp_path / "m.onnx", batch=batch, metadata={"qpass.preprocessing": '{"input": "x"}'})
    session, how = open_network(path)
    image = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    assert run(session, how, image)["logits"].tolist() == [image.ravel().tolist()]


def test_images_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    for name in ("a.png", "none.png"):
        with pytest.raises(SystemExit, match=rf"{name}: cannot be read"):
            read_image(tmp_path / name, HOW)
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(SystemExit, match=r"deep\.png: has more than 8 bits per channel"):
        read_image(tmp_path / "deep.png", HOW)


class TestBest:
    def test_probabilities_in_order(self) -> None:
        logits = np.log(np.array([[0.2, 0.5, 0.3]]))
        assert best({"scores": logits}, ["a", "b"], 2) == [" 50.00%  b", " 30.00%  class 2"]

    def test_logits_are_preferred_and_others_are_named(self) -> None:
        tables = {"hidden": np.zeros((1, 4)), "logits": np.array([[0.0, 9.0]])}
        assert best(tables, ["a", "b"], 1) == [" 99.99%  b"]
        boxes = {"logits": np.zeros((1, 5, 3)), "pred_boxes": np.zeros((1, 5, 4))}
        assert best(boxes, [], 1) == [
            f"{name}: float64 (1, 5, {n}); --save writes it" for name, n in (("logits", 3), ("pred_boxes", 4))
        ]

    def test_a_segmentation_gives_shares_of_pixels(self) -> None:
        logits = np.zeros((1, 3, 2, 2))
        logits[0, 2] = 1
        logits[0, 1, 0, 0] = 2
        assert best({"logits": logits}, ["a", "b", "c"], 3) == [" 75.00%  c", " 25.00%  b", "  0.00%  a"]


def test_it_needs_an_image() -> None:
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
