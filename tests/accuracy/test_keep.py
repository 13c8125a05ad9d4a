"""From a model and a metric to the narrowest network that keeps it, through files in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

import qpass
from qpass.accuracy import AccuracyResult
from qpass.errors import AccuracyError, ConfigError, DataError, QPassError

MODEL = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 4)).eval()
_generator = torch.Generator().manual_seed(0)
with torch.no_grad():
    for parameter in MODEL.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=_generator) / parameter.shape[-1] ** 0.5)
CALIBRATION, EVALUATION = torch.randn(320, 16, generator=_generator).split([64, 256])
with torch.no_grad():
    EXPECTED = MODEL(EVALUATION)


def closeness(predict: Callable[[Tensor], Tensor]) -> Tensor:
    """A score for each sample: minus the error as a share of the output, in per cent."""
    return -100 * (predict(EVALUATION) - EXPECTED).square().sum(1) / EXPECTED.square().sum(1).mean()


def top1(predict: Callable[[Tensor], Tensor]) -> Tensor:
    return predict(EVALUATION).argmax(1) == EXPECTED.argmax(1)


def keep(evaluate: Any = closeness, **options: Any) -> AccuracyResult:
    arguments: dict[str, Any] = {"config": "w2a8", "max_drop": 2.0, "progress": False, "threads": 1}
    return qpass.quantize_to_accuracy(MODEL, [CALIBRATION], evaluate=evaluate, **(arguments | options))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[AccuracyResult, Path, int]:
    """The result, its folder, and the number of calls of the metric."""
    folder, calls = tmp_path_factory.mktemp("kept"), []

    def counted(predict: Callable[[Tensor], Tensor]) -> Tensor:
        calls.append(predict)
        return closeness(predict)

    return keep(counted, folder=folder), folder, len(calls)


@pytest.mark.slow
def test_the_narrowest_that_keeps_it_is_chosen(kept: tuple[AccuracyResult, Path, int], tmp_path: Path) -> None:
    result, _, calls = kept
    assert calls == len(result.trials) + 1
    assert len({tuple(trial.scores.values) for trial in result.trials}) == len(result.trials)
    place = next(i for i, trial in enumerate(result.trials) if trial.config == result.config.to_dict())
    limits = [qpass.accuracy.drop.drop_of(trial.scores, result.float_scores).limit for trial in result.trials]
    assert limits[place] <= 2.0 < limits[place - 1], "the one before it was tried"
    assert 0 < place < len(result.trials) - 1
    assert result.drop.limit == limits[place]
    path = qpass.export_onnx(result.graph, tmp_path / "model.onnx")
    assert path.stat().st_size == result.trials[place].size
    scores = closeness(qpass.onnxruntime_model(result.graph, path, threads=1))
    assert scores.double().tolist() == pytest.approx(result.trials[place].scores.values)


@pytest.mark.slow
def test_its_recipe_makes_the_same_file(kept: tuple[AccuracyResult, Path, int], tmp_path: Path) -> None:
    result, _, _ = kept
    (tmp_path / "recipe.yaml").write_text(result.recipe_yaml())
    again = qpass.quantize_graph(MODEL, [CALIBRATION], tmp_path / "recipe.yaml", progress=False)
    files = [qpass.export_onnx(graph, tmp_path / f"{n}.onnx") for n, graph in enumerate((result.graph, again))]
    assert files[0].read_bytes() == files[1].read_bytes()
    text = str(result)
    recipe = text[text.index("recipe:\n") + len("recipe:\n") :]
    assert qpass.QuantConfig.from_any(yaml.safe_load(recipe)) == result.config
    assert "not an unbiased estimate" in text


@pytest.mark.slow
def test_what_was_tried_is_not_tried_again(kept: tuple[AccuracyResult, Path, int], capsys: pytest.CaptureFixture[str]) -> None:
    result, folder, _ = kept
    calls: list[Any] = []
    again = keep(lambda predict: calls.append(predict) or closeness(predict), folder=folder, progress=True)
    assert len(calls) == 1, "the float network"
    assert again.trials == result.trials
    assert again.config == result.config
    lines = [line for line in capsys.readouterr().err.splitlines() if " MB, drop " in line]
    assert len(lines) == len(again.trials)
    assert lines[0].startswith("the recipe as it is: 0.0")
    assert {line.rpartition(": ")[2] for line in lines} == {"kept", "too much"}
    timed = keep(folder=folder, config="w8a8", measure_speed=True)
    assert [trial.label for trial in timed.trials] == ["the recipe as it is"]
    assert timed.trials[0].speedup is not None
    assert timed.trials[0].speedup > 0


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on(kept: tuple[AccuracyResult, Path, int], tmp_path: Path) -> None:
    result, _, calls = kept
    count = 0

    def interrupted(predict: Callable[[Tensor], Tensor]) -> Tensor:
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        return closeness(predict)

    with pytest.raises(KeyboardInterrupt):
        keep(interrupted, folder=tmp_path)
    again = keep(interrupted, folder=tmp_path)
    assert again.trials == result.trials
    assert count == 4 + 1 + calls - 3, "float again, and what is left"
    with pytest.raises(ConfigError, match="scores the float network"):
        keep(lambda predict: closeness(predict) - 1, folder=tmp_path)
    with pytest.raises(ConfigError, match=r"holds candidates of another run, whose seed is 0, not 1"):
        keep(folder=tmp_path, seed=1)


def test_a_recipe_that_keeps_it_as_it_is_is_tried_alone() -> None:
    MODEL[1].train()
    result = keep(top1, config=None, prefer="speed", max_drop=0.02)
    assert [module.training for module in MODEL] == [False, True, False, False, False], "it is not modified"
    MODEL[1].eval()
    assert [trial.label for trial in result.trials] == ["the recipe as it is"]
    assert result.config == qpass.QuantConfig.from_any("w8a8")
    assert result.trials[0].speedup is None
    assert result.float_scores.unit == 1.0


@pytest.mark.slow
def test_if_no_candidate_keeps_it_that_is_said_with_all_that_was_tried() -> None:
    def hopeless(predict: Any) -> float:
        return 0.0 if isinstance(predict, nn.Module) else 1.0  # files are run by modules

    with pytest.raises(
        AccuracyError, match=r"max_drop 0.5: no candidate keeps it: the widest, .* in float, drops 1; "
    ) as raised:
        keep(hopeless, max_drop=0.5, config="w8a8")
    assert "the recipe as it is" in raised.value.table
    assert "*" not in raised.value.table


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"evaluate": 3}, ConfigError, "evaluate: got a int; expected a function of a network"),
        ({"max_drop": -1}, ConfigError, "max_drop: got -1"),
        ({"prefer": "small"}, ConfigError, "prefer: got 'small'"),
        ({"target": "openvin"}, ConfigError, "did you mean 'openvino'"),
        ({"target": "tensorrt"}, ConfigError, "tensorrt cannot express zero points; add signed_codes: true"),
        ({"target": "tensorrt", "weight_type": "uint8"}, QPassError, "weight_type: TensorRT reads no uint8"),
        ({"config": {"preset": "mixed-w4a5"}}, ConfigError, "a budget and max_drop both choose bit widths"),
        ({"evaluate": lambda predict: predict(CALIBRATION)[:, 0]}, DataError, "evaluates a calibration sample"),
        (
            {"evaluate": top1, "max_drop": 0.01},
            ConfigError,
            "256 samples are too few to show a drop of 0.01: .*expected 268 at least",
        ),
        ({"evaluate": top1, "max_drop": 0}, ConfigError, "expected a max_drop above 0"),
        ({"exclude": ["7"]}, ConfigError, "rule '7': the pattern matches no Linear"),
    ],
)
def test_bad_input_is_refused(options: dict[str, Any], error: type[QPassError], message: str) -> None:
    with pytest.raises(QPassError, match=message) as raised:
        keep(**options)
    assert isinstance(raised.value, (error, QPassError))


@pytest.mark.nightly
def test_a_vision_transformer_by_its_labels(vit: nn.Module, images: Tensor) -> None:
    unseen = torch.randn(300, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        labels = vit(unseen).argmax(1)
    right = lambda predict: 100.0 * (predict(unseen).argmax(1) == labels)  # noqa: E731
    result = qpass.quantize_to_accuracy(vit, [images], "w4a4", evaluate=right, max_drop=8.0, progress=False)
    assert result.drop.limit <= 8.0
    assert result.float_scores.unit == 100.0
    assert len(result.trials) > 2
