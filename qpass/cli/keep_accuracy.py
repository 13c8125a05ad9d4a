"""``qpass quantize --max-drop``: its options, the metric, and what is printed and written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from torch import Tensor

from qpass.accuracy.candidates import PREFERENCES, STARTS
from qpass.cli.labelled import open_labelled
from qpass.cli.options import DATA, console
from qpass.cli.run_folder import RECIPE
from qpass.errors import AccuracyError, ConfigError
from qpass.runtime.atomic_write import write_whole


def accuracy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--max-drop``, ``--eval``, ``--prefer`` and ``--speed`` to a command, as its ``goal``."""

    def run(*args: Any, max_drop: float | None, eval_data: Path | None, prefer: str | None, speed: bool, **kwargs: Any) -> Any:
        given = {"--prefer": prefer, "--speed": speed}
        if max_drop is None and (odd := [name for name, value in given.items() if value]):
            raise ConfigError(
                f"{odd[0]} without --max-drop", where="qpass quantize", hint="--max-drop 1.0 allows one point of top-1"
            )
        goal = None
        if max_drop is not None:
            if eval_data is None:
                raise ConfigError("--max-drop without --eval", where="qpass quantize", hint="name labelled images with --eval")
            goal = AccuracyOptions(max_drop, eval_data, prefer or "size", speed)
        return command(*args, goal=goal, eval_data=eval_data, **kwargs)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    wrapped: Any = run
    wrapped.__click_params__ = getattr(command, "__click_params__", [])
    for option in (
        click.option("--speed", is_flag=True, help="With --max-drop: time each candidate against float."),
        click.option(
            "--prefer",
            type=click.Choice(PREFERENCES),
            help="With --max-drop: what to keep first  [default: size]. Without --config, the first candidate is"
            f" {STARTS['size']} for size and {STARTS['speed']} for speed.",
        ),
        click.option(
            "--eval",
            "eval_data",
            type=DATA,
            help="Labelled images, none of them in --calib: the last lines state top-1 on them. --max-drop needs them.",
        ),
        click.option(
            "--max-drop",
            type=click.FloatRange(min=0),
            metavar="POINTS",
            help="Find the smallest file (or fastest, --prefer) whose top-1 on --eval is at most this many points below float,"
            " with 95 % confidence. Exit code 2 if there is none. The same command resumes.",
        ),
    ):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


@dataclass(frozen=True)
class AccuracyOptions:
    """The options, checked.

    Attributes:
        max_drop: Largest drop of top-1, in points.
        data: Labelled images.
        prefer: ``"size"`` or ``"speed"``.
        speed: Whether to time candidates.
    """

    max_drop: float
    data: Path
    prefer: str
    speed: bool

    @property
    def start(self) -> str:
        """The recipe to start from, if none is given."""
        return STARTS[self.prefer]

    def metric(self, transform: Any, batch_size: int) -> Callable[[Callable[..., Any]], Tensor]:
        """Returns the metric: 100 for each image whose label has the highest score, 0 for the others.

        Raises:
            DataError: If the images cannot be opened or have no labels.
        """
        from qpass.data import image_batches
        from qpass.evaluation.top1 import evaluate_top1, in_batches_of

        images = open_labelled(self.data, transform)

        def top1(predict: Callable[..., Any]) -> Tensor:
            # A graph may have the batch size of the calibration batches.
            found = evaluate_top1(in_batches_of(batch_size, predict), image_batches(images, batch_size))
            return 100.0 * found.correct.double()

        return top1

    def quantize(
        self, network: Any, batches: Any, recipe: Any, metric: Any, output: Path, *, quiet: bool, **options: Any
    ) -> Any:
        """Returns the quantized graph, prints what was tried unless ``quiet``, and writes the recipe.

        Raises:
            AccuracyError: If no candidate keeps the goal; what was tried is printed first.
        """
        import qpass

        try:
            found = qpass.quantize_to_accuracy(
                network,
                batches,
                recipe,
                evaluate=metric,
                max_drop=self.max_drop,
                prefer=self.prefer,
                measure_speed=self.speed,
                **options,
            )
        except AccuracyError as error:
            if not quiet:
                console.print(error.table, highlight=False, soft_wrap=True)
            raise
        if not quiet:
            console.print(str(found), highlight=False, soft_wrap=True)
        write_whole(output / RECIPE, found.recipe_yaml())
        return found.graph
