"""What each tensor costs the output: as text, as JSON, as a plot, and as rules to paste."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from qpass.config import QuantConfig
from qpass.config.rule_text import float_rule, merged_rules, tensor_rules
from qpass.errors import DataError
from qpass.passes.analysis.tensor_sensitivity import SAMPLES, Sensitivity, TensorSensitivity
from qpass.runtime.extras import from_extra
from qpass.runtime.plain_data import check_plain, printable
from qpass.runtime.records import record

#: Tensors that the text and the rules name, unless asked for more.
SHOWN = 10


@dataclass(frozen=True, repr=False)
class SensitivityReport:
    """The tensors of a network by what they cost its output.

    Attributes:
        model: Class of the model.
        config: The recipe, as plain data.
        tensors: Each tensor that a rule can address, in order of execution, weights last.
        multiply_adds: Multiply-adds of each layer in the traced example, by module path.
    """

    model: str
    config: Mapping[str, Any]
    tensors: tuple[TensorSensitivity, ...]
    multiply_adds: Mapping[str, int]

    @classmethod
    def of(cls, found: Sensitivity, model: str, config: QuantConfig) -> SensitivityReport:
        """Returns the report on a measurement."""
        return cls(model, config.to_dict(), found.tensors, found.multiply_adds)

    @property
    def ordered(self) -> tuple[TensorSensitivity, ...]:
        """The tensors, those with the largest errors first."""
        return tuple(sorted(self.tensors, key=lambda tensor: -tensor.error))

    @property
    def total(self) -> float:
        """The sum of all errors: the expected error of the whole network, if errors are small."""
        return sum(tensor.error for tensor in self.tensors)

    def rules(self, count: int = SHOWN) -> list[dict[str, Any]]:
        """Returns rules that give the most sensitive tensors 8 bits, or leave them in float at 8 bits.

        Args:
            count: Number of tensors.
        """
        found: list[dict[str, Any]] = []
        for tensor in self.ordered[:count]:
            if tensor.changes:
                found += tensor_rules(tensor.members, tensor.changes[tensor.widest])
            else:
                found += [float_rule(path, role) for path, role in tensor.members]
        return merged_rules(found)

    def rules_yaml(self, count: int = SHOWN) -> str:
        """Returns these rules as YAML, to be pasted into a recipe."""
        return yaml.safe_dump({"rules": self.rules(count)}, sort_keys=False, default_flow_style=None)

    def to_json(self) -> str:
        """Returns the report as JSON; ``from_json`` reads it back."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> SensitivityReport:
        """Reads what ``to_json`` wrote.

        Raises:
            DataError: Naming the field that is missing, unknown or of the wrong type.
        """
        data = json.loads(text)
        check_plain(data, "sensitivity")
        return record(cls, data, "sensitivity")

    def to_svg(self) -> str:
        """Returns a plot of the errors, the largest first.

        Raises:
            DataError: If matplotlib is not installed.
        """
        with from_extra("plot", "the plot of sensitivities"):
            from qpass.report.sensitivity_plot import errors_of_tensors  # matplotlib is slow to import

        return errors_of_tensors(self.ordered)

    def text(self, count: int = SHOWN) -> str:
        """Returns a table of the most sensitive tensors."""
        shown = self.ordered[:count]
        lines = [
            f"{self.model} as {self.config['name']}: output error from rounding each tensor alone, as a share of the output"
            f" ({SAMPLES} samples at most, first order)",
            f"{'tensor':<44} {'role':<13} {'bits':>4} {'error':>9} {'share':>6}  with more bits",
        ]
        for tensor in shown:
            wider = ", ".join(f"{bits}: {error:.2g}" for bits, error in tensor.errors.items() if bits != tensor.bits)
            share = tensor.error / self.total if self.total else 0.0
            name = ", ".join(path or "(model)" for path in tensor.paths)
            lines.append(f"{name:<44} {tensor.role:<13} {tensor.bits:>4} {tensor.error:>9.2e} {share:>6.1%}  {wider or '-'}")
        left = self.ordered[count:]
        if left:
            lines.append(f"and {len(left)} more, together {sum(tensor.error for tensor in left):.2e}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Shows the plot, if matplotlib is installed, and the table in a notebook."""
        plot = ""
        with suppress(DataError):
            plot = self.to_svg()
        return f"{plot}<pre>{html.escape(printable(str(self)))}</pre>"

    def __repr__(self) -> str:
        name = f"{self.model} as {self.config['name']}"
        return f"<SensitivityReport: {name}, {len(self.tensors)} tensors, error {self.total:.2g} of the output>"

    def __str__(self) -> str:
        return self.text()
