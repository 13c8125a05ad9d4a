"""The options of ``qpass quantize``, checked before any work is done."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpass.cli.model_arguments import named_arguments
from qpass.cli.transforms import read_names
from qpass.runtime.arguments import usable_device
from qpass.runtime.storage import bytes_of

if TYPE_CHECKING:
    from qpass.cli.keep_accuracy import AccuracyOptions
    from qpass.config import QuantConfig


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """What the command line gave, under the names of its options.

    Attributes:
        goal: Options of ``--max-drop``; None without.
        eval_data: Labelled images of ``--eval``.
        recipe: The recipe that ``config``, ``schedule``, ``polish``, ``exclude`` and ``target`` give.
        names: Names of the classes; None for the model's.
        factory_arguments: Arguments of the model's factory.

    Raises:
        QPassError: If an option cannot be carried out.
    """

    model: str
    checkpoint: Path | None
    calib: Path
    calib_count: int | None
    num_calib: int | None
    config: str | None
    exclude: tuple[str, ...]
    schedule: str | None
    polish: str | None
    checkpoint_dir: Path | None
    max_memory: float
    target: str
    weight_type: str
    output: Path
    discard: bool
    no_verify: bool
    no_images: bool
    as_json: bool
    device: str | None
    seed: int
    model_args: tuple[str, ...]
    batch_size: int
    crop: int | None
    resize: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    class_names: Path | None
    image_size: tuple[int, int] | None
    goal: AccuracyOptions | None
    eval_data: Path | None
    recipe: QuantConfig = field(init=False)
    names: list[str] | None = field(init=False)
    factory_arguments: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        from qpass.backends.onnx_qdq.targets import target_by_name

        found = {
            "names": None if self.class_names is None else read_names(self.class_names),
            "factory_arguments": named_arguments(self.model_args),
        }
        target_by_name(self.target).stores_int8(self.weight_type)
        bytes_of(self.max_memory)
        if self.device is not None:
            usable_device(self.device)
        for name, value in {**found, "recipe": self._recipe()}.items():
            object.__setattr__(self, name, value)

    @property
    def asked(self) -> int | None:
        """Calibration images that were asked for."""
        return self.calib_count or self.num_calib

    @property
    def learns(self) -> bool:
        """Whether the recipe learns blocks."""
        return self.recipe.reconstruction is not None

    def _recipe(self) -> QuantConfig:
        from qpass.backends.onnx_qdq.targets import target_by_name
        from qpass.config import QuantConfig

        config = self.config or ("w8a8" if self.goal is None else self.goal.start)
        given = (("schedule", self.schedule), ("polish", self.polish))
        learning = {key: value for key, value in given if value is not None}
        is_file = config.endswith((".yaml", ".yml"))
        recipe = QuantConfig.from_yaml(config, **learning) if is_file else QuantConfig.from_any({"preset": config, **learning})
        recipe = recipe.excluding(self.exclude)
        return dataclasses.replace(recipe, **target_by_name(self.target).recipe)
