"""Keeps public modules that have moved importable by their old names."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: New name of each documented module that has moved.
MOVED = {
    "qpass.detectors": "qpass.zoo.mask_rcnn",
    "qpass.distributed": "qpass.runtime.distributed",
    "qpass.evaluate": "qpass.evaluation.top1",
    "qpass.evaluate_detection": "qpass.evaluation.detection",
    "qpass.evaluate_parts": "qpass.evaluation.part_segmentation",
    "qpass.models": "qpass.zoo.timm_models",
    "qpass.point_transformer": "qpass.zoo.point_transformer",
    "qpass.presets": "qpass.config.presets",
    "qpass.trace": "qpass.graph.capture.trace",
}
#: The old name of a module that is the name of a public function now.
_NOW_A_FUNCTION = "qpass.evaluate"


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, _Loader()) if fullname in MOVED else None


class _Loader(Loader):
    """Loads the module by its new name, and restores its spec, which importlib overwrites."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = MOVED[spec.name]
        warnings.warn(f"{spec.name} is now {new}", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None and module.__spec__.name == _NOW_A_FUNCTION:
            module.__class__ = _Callable  # importlib puts the module in the place of the function
        module.__spec__ = self._spec


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function that has the module's old name."""
        return getattr(importlib.import_module("qpass.api"), _NOW_A_FUNCTION.rpartition(".")[2])(*args, **kwargs)


def install() -> None:
    """Makes the old names importable."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
