"""Keeps public modules that have moved importable by their old names."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

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
        module.__spec__ = self._spec


def install() -> None:
    """Makes the old names importable."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
