"""What a file says about its inputs and classes, so that it can be run without the code that made it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx

from qpass.data import ImageTransform
from qpass.errors import LoweringError
from qpass.graph.edit import shape_of
from qpass.graph.facts import facts_of
from qpass.graph.signature.outputs import output_leaves

#: Metadata key of the preprocessing, as JSON.
PREPROCESSING = "qpass.preprocessing"


def preprocessing_metadata(images: Mapping[str, Any] | None) -> dict[str, str]:
    """Returns the metadata entries of what ``describe_preprocessing`` returned; none for None."""
    return {} if images is None else {PREPROCESSING: json.dumps(images)}


def describe_preprocessing(
    graph_module: fx.GraphModule, transform: ImageTransform, class_names: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns how images become the graph's input, as plain data.

    Args:
        graph_module: A graph with one input of images.
        transform: The preprocessing.
        class_names: Names of the classes, in the order of the scores; empty if unknown.

    Raises:
        LoweringError: If no input, or more than one, takes what the transform gives.
    """
    facts, how = facts_of(graph_module), transform.to_dict()
    fitting = _fitting(graph_module, transform)
    if len(fitting) != 1:
        inputs = ", ".join(f"{name} {tuple(dims)}" for name, dims in zip(facts.names, facts.dims, strict=True))
        raise LoweringError(
            f"{len(fitting)} inputs take images of {how['channels']}, {how['size']}; the inputs are {inputs}",
            where="preprocessing",
            expected="the preprocessing of exactly one of the inputs",
        )
    shapes = [shape_of(leaf) for leaf in output_leaves(graph_module) if isinstance(leaf, fx.Node)]
    if class_names and not any(len(class_names) in shape[1:] for shape in shapes if shape):
        warnings.warn(f"{len(class_names)} class names, but no output has as many scores: {shapes}", stacklevel=3)
    return {"input": fitting[0], **how, "classes": list(class_names)}


def takes_images(graph_module: fx.GraphModule, transform: ImageTransform) -> bool:
    """Returns whether exactly one input takes what a transform gives."""
    return len(_fitting(graph_module, transform)) == 1


def _fitting(graph_module: fx.GraphModule, transform: ImageTransform) -> list[str]:
    how, facts = transform.to_dict(), facts_of(graph_module)
    image = (len(how["mean"]), *how["size"])
    return [name for name, dims in zip(facts.names, facts.dims, strict=True) if _fits(dims, image)]


def _fits(dims: Sequence[int | str], image: Sequence[int]) -> bool:
    return len(dims) == 4 and all(isinstance(dim, str) or dim == side for dim, side in zip(dims[1:], image, strict=True))
