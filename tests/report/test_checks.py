"""Rows that no report has are refused by name."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

import qpass.report.checks as checks
from qpass.errors import DataError
from qpass.passes.allocate_bits import Allocated
from qpass.report.checks import check_rows
from qpass.report.data import Agreement, InputPreview, LayerRow, ReportData, Speed, TensorRow, Thumbnail, Verified

TENSOR = TensorRow("q", "a", "activation", "Uniform", 4, 0.1, 3.0, -1.0, 1.0, 30.0, (1, 2), (0.0, 0.5))
LAYER = LayerRow("a", "linear", 4, (4,), 30.0)
CHOICE = Allocated("a", "weight", 4, 10, {4: 0.1, 8: 0.0})


def report(**changes: Any) -> ReportData:
    given = {"tensors": (TENSOR,), "layers": (LAYER,), "allocation": (CHOICE,), **changes}
    config = {"name": "w4a4", "activation": {"bits": 4}, "weight": {"bits": 4}}
    return ReportData("M", config, True, 8, blocks=(), stayed_float=(), output_sqnr_db=20.0, **given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "bias"}, r"report.tensors\[0\].kind: is another"),
        ({"bits": 0}, r"tensors\[0\].bits: is 0; expected 1 to 64"),
        ({"bits": 65}, r"tensors\[0\].bits"),
        ({"low": 2.0}, r"tensors\[0\]: has an odd range"),
        ({"high": math.inf}, r"tensors\[0\]: has an odd range"),
        ({"low": math.nan}, r"tensors\[0\]: has an odd range"),
        ({"low": -3.6e38}, r"tensors\[0\]: has an odd range"),
        ({"levels": ()}, r"tensors\[0\].levels: is odd"),
        ({"levels": (0.0,) * 257}, r"tensors\[0\].levels: is odd"),
        ({"levels": (math.nan,)}, r"tensors\[0\].levels: is odd"),
        ({"readers": (("a", "weight"),) * 1001}, r"tensors\[0\].readers: has too many"),
        ({"readers": (("a", "bias"),)}, r"tensors\[0\].readers: has another role"),
        ({"sqnr_db": 1e300}, r"tensors\[0\].sqnr_db: is odd"),
        ({"histogram": (1, -1)}, r"tensors\[0\].histogram: is odd"),
        ({"histogram": (1,) * 1001}, r"tensors\[0\].histogram: is odd"),
    ],
)
def test_tensors(changes: dict[str, Any], message: str) -> None:
    check_rows(report())
    with pytest.raises(DataError, match=message):
        check_rows(report(tensors=(replace(TENSOR, **changes),)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "bias"}, r"allocation\[0\].kind: is another"),
        ({"bits": 0}, r"allocation\[0\]: has an odd"),
        ({"size": 0}, r"allocation\[0\]: has an odd"),
        ({"errors": {}}, r"allocation\[0\].errors: has no"),
        ({"errors": {8: 0.1}}, r"allocation\[0\].bits: is none of those that were tried"),
    ],
)
def test_choices(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_rows(report(allocation=(replace(CHOICE, **changes),)))


PICTURE = Thumbnail(2, 2, 1, ("AAE=", "AgM="))
PREVIEW = InputPreview("x", (1, 9, 9), (0.0,), (1.0,), (0.5,), (0.1,), (PICTURE,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (1, 9)}, "preview.shape: is no image's"),
        ({"shape": (2, 9, 9)}, "preview.shape: is no image's"),
        ({"means": ()}, "preview.means: is odd"),
        ({"highs": (math.inf,)}, "preview.highs: is odd"),
        ({"images": (PICTURE,) * 17}, "preview.images: has too many"),
        ({"images": (replace(PICTURE, channels=3),)}, r"preview.images\[0\]: has an odd size"),
        ({"images": (replace(PICTURE, width=257),)}, r"preview.images\[0\]: has an odd size"),
        ({"images": (replace(PICTURE, height=3),)}, r"preview.images\[0\]: has an odd size"),
        ({"images": (replace(PICTURE, rows=("AAE=", "AgMA")),)}, r"preview.images\[0\]: has an odd row"),
        ({"images": (replace(PICTURE, rows=("AAE=", '"<b>"')),)}, r"preview.images\[0\]: has an odd row"),
        ({"images": (replace(PICTURE, rows=("AAE=", "AgM=é")),)}, r"preview.images\[0\]: has an odd row"),
        ({"images": (replace(PICTURE, rows=("AAE=", "A<gM=")),)}, r"preview.images\[0\]: has an odd row"),
    ],
)
def test_previews(changes: dict[str, Any], message: str) -> None:
    check_rows(report(preview=PREVIEW))
    with pytest.raises(DataError, match=message):
        check_rows(report(preview=replace(PREVIEW, **changes)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agreement": Agreement(3, 2, 10)}, "report.agreement: has odd counts"),
        ({"agreement": Agreement(0, 0, 10)}, "report.agreement: has odd counts"),
        ({"calibration_samples": -1}, "report.calibration_samples: is negative"),
        ({"speed": (Speed(0.0, 1, 1),)}, r"report.speed\[0\]: is odd"),
        ({"speed": (Speed(math.nan, 1, 1),)}, r"report.speed\[0\]: is odd"),
        ({"speed": (Speed(1.0, 1, 1),) * 101}, "report.speed: has too many"),
        ({"verified": Verified(True, "", -1)}, "report.verified.samples: is negative"),
        ({"layers": (replace(LAYER, sqnr_db=-1e9),)}, r"report.layers\[0\].sqnr_db: is odd"),
    ],
)
def test_outcomes(changes: dict[str, Any], message: str) -> None:
    check_rows(report(agreement=Agreement(2, 2, 10), speed=(Speed(1.0, 1, 1),), verified=Verified(True, "", 1)))
    with pytest.raises(DataError, match=message):
        check_rows(report(**changes))


def test_layers_recipes_and_numbers_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"report.layers\[0\].kind: is another; expected linear, conv1d"):
        check_rows(report(layers=(replace(LAYER, kind="lstm"),)))
    with pytest.raises(DataError, match=r"report.config.name: is no text"):
        check_rows(replace(report(), config={**report().config, "name": 3}))
    with pytest.raises(DataError, match=r"report.config.weight.bits: is odd"):
        check_rows(replace(report(), config={**report().config, "weight": {"bits": 0}}))
    monkeypatch.setattr(checks, "_ROWS", 1)
    check_rows(report())
    reason = ("a", "b", "c")
    rows = {"tensors": TENSOR, "layers": LAYER, "allocation": CHOICE, "unrotated": reason, "not_rewritten": reason}
    for name, row in rows.items():
        with pytest.raises(DataError, match=f"report.{name}: has too many rows; expected at most 1"):
            check_rows(report(**{name: (row, row)}))
