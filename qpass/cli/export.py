"""The command ``qpass export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from qpass.cli.doubts import doubt_of_file
from qpass.cli.options import DATA, console, file_options, note, runtime_option
from qpass.errors import ConfigError, DataError
from qpass.runtime.plain_data import printable

#: Images that the file is verified on.
_SAMPLES = 8


@click.command()
@click.argument("folder", type=DATA)
@file_options("the file")
@click.option("--output", type=DATA, help="The file  [default: model-TARGET.onnx in FOLDER, or model-TARGET-TYPE.onnx]")
@click.option("--data", type=DATA, help="Images to verify on  [default: the calibration images]")
@click.option("--no-verify", is_flag=True, help="Write the file without verifying it.")
@runtime_option("With openvino, also run the whole file in OpenVINO.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export(
    folder: Path, target: str, weight_type: str, output: Path | None, data: Path | None, no_verify: bool, runtime: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Write another file from the quantized graph of FOLDER, and verify it; exit code 2 if it is wrong.

    Nothing is quantized again: the file computes what model.onnx computes, in the form for another
    runtime or processor. FOLDER's own files stay as they are.
    """
    import qpass
    from qpass.backends.onnx_qdq.export import export_quantized, processors
    from qpass.backends.onnx_qdq.preprocessing import preprocessing_metadata
    from qpass.backends.onnx_qdq.targets import target_by_name
    from qpass.cli.run_folder import FLOAT, GRAPH, MODEL, exported_name, file_in, read_settings
    from qpass.cli.sample_images import sample_images
    from qpass.graph.facts import facts_of, recipe_of

    known = target_by_name(target)
    known.stores_int8(weight_type)
    settings = read_settings(folder)
    graph = qpass.load(file_in(folder, GRAPH))
    path = output or folder / exported_name(target, weight_type)
    if path.resolve() in [(folder / name).resolve() for name in (MODEL, FLOAT)]:
        raise ConfigError(
            "is the folder's own file", where=str(path), expected="another name", hint="qpass quantize --target replaces it"
        )
    export_quantized(
        graph, path, target=target, weight_type=weight_type, metadata=preprocessing_metadata(_preprocessing(folder))
    )
    if target == "openvino" and not recipe_of(graph).fused_attention:
        note("note: attention stays in float in OpenVINO; 'qpass quantize --target openvino' quantizes it for integers")
    exact = processors(graph, weight_type, target)
    if (doubt := doubt_of_file(exact, path.name, target)) is not None:
        note(f"note: {doubt}")
    verified = None
    if not no_verify:
        images = sample_images(settings, facts_of(graph), _SAMPLES, data)
        verified = qpass.verify_onnx(graph, path, images, strict=False, runtime=runtime)
    size = path.stat().st_size
    if as_json:
        found: dict[str, Any] = {
            "file": str(path),
            "bytes": size,
            "target": target,
            "options": dict(known.options),
            "exact_on": exact,
        }
        click.echo(json.dumps({**found, "verified": None if verified is None else verified.to_dict()}, indent=1))
    else:
        lines = [f"written: {path}, {size / 1e6:.2f} MB, for {target}; exact on {exact}"]
        if known.options:
            lines.append("run it with " + ", ".join(f"{name}={value}" for name, value in known.options.items()))
        if verified is not None:
            lines += [f"verified: {verified.headline}", *verified.failures[1:]]
        console.print(printable("\n".join(lines)), highlight=False, soft_wrap=True)
    if verified is not None and not verified.passed:
        raise click.exceptions.Exit(2)


def _preprocessing(folder: Path) -> dict[str, Any] | None:
    """Returns how images become the input, as the run wrote it; None if it is unknown.

    Raises:
        DataError: If the file is damaged.
    """
    from qpass.cli.run_folder import IMAGES
    from qpass.data.regular_file import read_text

    path = folder / IMAGES
    if not path.exists():
        return None
    try:
        found = json.loads(read_text(path, "what 'qpass quantize' wrote"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"is damaged: {error}", where=str(path), hint="quantize again") from error
    if not isinstance(found, dict):
        raise DataError("is damaged: no mapping", where=str(path), hint="quantize again")
    return found
