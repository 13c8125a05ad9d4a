from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from qpass.runtime.old_paths import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_is_the_module_itself(old: str) -> None:
    sys.modules.pop(old, None)
    new = importlib.import_module(MOVED[old])
    with pytest.warns(DeprecationWarning, match=f"{old} is now {MOVED[old]}"):
        assert importlib.import_module(old) is new
    assert new.__name__ == MOVED[old]
    assert new.__spec__ is not None
    assert new.__spec__.name == MOVED[old]
    assert importlib.reload(new) is new


def test_names_can_be_imported_from_it_and_a_function_of_its_name_stays_one() -> None:
    code = (
        "import torch; from qpass.models import create_model; import qpass.evaluate\n"
        "print(create_model.__module__, qpass.evaluate.__name__, qpass.evaluate.evaluate_top1.__module__)\n"
        "print(qpass.evaluate(torch.sin, [(torch.eye(2), torch.arange(2))]).mean)"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["qpass.zoo.timm_models", "qpass.evaluation.top1", "qpass.evaluation.top1", "1.0"]
