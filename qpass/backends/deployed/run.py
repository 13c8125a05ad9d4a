"""Runs a quantized network on images: prints the classes with the highest scores.

    python run.py cat.jpg dog.jpg                the five best classes of each
    python run.py --top 1 cat.jpg                the best one
    python run.py --model float.onnx cat.jpg     another file
    python run.py --save outputs.npz cat.jpg     all outputs as arrays

Needs onnxruntime, numpy and pillow. The file says how images are preprocessed and what its classes
are called, in its metadata; preprocessing.json has the same data.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from qpass.data.preprocess import preprocess

#: Key of the preprocessing in the file's metadata.
KEY = "qpass.preprocessing"


def open_network(path: Path) -> tuple[ort.InferenceSession, dict[str, Any]]:
    """Returns a session of the file, and its preprocessing."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    if KEY not in metadata:
        sys.exit(f"{path}: does not say how its images are preprocessed (metadata {KEY})")
    how = json.loads(metadata[KEY])
    if others := [value.name for value in session.get_inputs() if value.name != how["input"]]:
        sys.exit(f"{path}: has other inputs than images, {', '.join(others)}: this script does not have them")
    return session, how


def read_image(path: Path, how: Mapping[str, Any]) -> NDArray[np.float32]:
    """Returns an image as the network's input: (channels, height, width)."""
    try:
        with Image.open(path) as image:
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):
                sys.exit(f"{path}: has more than 8 bits per channel; convert it first")
            return preprocess(image, how)
    except OSError as error:
        sys.exit(f"{path}: cannot be read: {error}")


def run(session: ort.InferenceSession, how: Mapping[str, Any], image: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Returns all outputs for one image by name, with a batch of 1."""
    rows = session.get_inputs()[0].shape[0]
    batch = np.repeat(image[None], rows if isinstance(rows, int) else 1, axis=0)  # some files hold for one batch size
    names = [value.name for value in session.get_outputs()]
    outputs = session.run(names, {how["input"]: batch})
    return {name: output[:1] for name, output in zip(names, outputs, strict=True)}


def best(outputs: Mapping[str, NDArray[Any]], classes: Sequence[str], count: int) -> list[str]:
    """Returns a line for each of the classes with the highest scores."""
    tables = [name for name, output in outputs.items() if output.ndim == 2]
    chosen = "logits" if "logits" in outputs else tables[0] if len(tables) == 1 else ""
    if not chosen or outputs[chosen].ndim not in (2, 4):
        return [f"{name}: {output.dtype} {output.shape}; --save writes it" for name, output in outputs.items()]
    logits = outputs[chosen][0].astype(np.float64)
    if logits.ndim == 1:
        shares = np.exp(logits - logits.max())
    else:  # (classes, height, width) of a segmentation: the pixels in which each class is the best
        shares = np.bincount(logits.argmax(0).ravel(), minlength=len(logits)).astype(np.float64)
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable")[:count]
    return [f"{shares[i]:7.2%}  {classes[i] if i < len(classes) else f'class {i}'}" for i in order]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description="Prints the classes that a network finds in images.")
    parser.add_argument("images", nargs="+", type=Path, metavar="image")
    parser.add_argument("--model", type=Path, default=here / "model.onnx", help="ONNX file [%(default)s]")
    parser.add_argument("--top", type=int, default=5, help="classes to print [%(default)s]")
    parser.add_argument("--save", type=Path, help="write all outputs to this .npz, a row for each image")
    options = parser.parse_args(arguments)
    session, how = open_network(options.model)
    found = []
    for path in options.images:
        outputs = run(session, how, read_image(path, how))
        found.append(outputs)
        print(f"{path}:", *best(outputs, how["classes"], options.top), sep="\n  ")
    if options.save is not None:
        arrays: dict[str, Any] = {name: np.concatenate([outputs[name] for outputs in found]) for name in found[0]}
        np.savez(options.save, **arrays)


if __name__ == "__main__":
    main()
