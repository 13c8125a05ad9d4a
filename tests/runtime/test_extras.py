from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from qpass.errors import DataError
from qpass.passes.analysis.tensor_sensitivity import TensorSensitivity
from qpass.report.sensitivity import SensitivityReport
from qpass.runtime.extras import from_extra
from qpass.zoo.digits import load_digits


def test_a_missing_package_is_named_with_the_extra_that_installs_it() -> None:
    message = r"^here: needs no_such_package, which is not installed; pip install 'qpass\[some\]'$"
    with pytest.raises(DataError, match=message), from_extra("some", "here"):
        import no_such_package.inner  # noqa: F401


def sensitivities() -> SensitivityReport:
    tensor = TensorSensitivity((("head", "weight"),), 4, 10, {4: 0.1}, {})
    return SensitivityReport("Net", {"name": "w4a8"}, (tensor,), {})


@pytest.mark.parametrize(
    ("package", "extra", "use"),
    [("sklearn.datasets", "demo", load_digits), ("matplotlib", "plot", lambda: sensitivities().to_svg())],
)
def test_what_needs_a_package_says_so(
    package: str, extra: str, use: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "qpass.report.sensitivity_plot", raising=False)
    with pytest.raises(DataError, match=rf"needs {package.partition('.')[0]}, .*qpass\[{extra}\]"):
        use()
