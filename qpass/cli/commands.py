"""The command ``qpass``: its parts are modules of this package, one a command."""

from __future__ import annotations

import click

from qpass.cli.bench import bench
from qpass.cli.command_group import OneLineGroup
from qpass.cli.compare import compare
from qpass.cli.demo import demo
from qpass.cli.evaluate import evaluate
from qpass.cli.export import export
from qpass.cli.output_options import add_output_options
from qpass.cli.presets import presets
from qpass.cli.quantize import quantize
from qpass.cli.report import report
from qpass.cli.sensitivity import sensitivity
from qpass.cli.verify import verify
from qpass.version import __version__


@click.group(cls=OneLineGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qpass")
def main() -> None:
    """Quantize vision transformers after training and deploy them as verified ONNX files.

    \b
    Workflow:
      qpass presets                                 which recipes there are
      qpass quantize deit_tiny_patch16_224 --checkpoint weights.safetensors \\
            --calib images.zip --config w8a8 --output out/
      qpass evaluate out/ --data validation.zip     top-1 of graph and file
      qpass verify   out/ --data images.zip         is the file the same network?
      qpass bench    out/                           is it faster than float?
      qpass report   out/                           what happened to each layer?
      qpass compare  out/ other/                    two runs side by side
      qpass export   out/ --target openvino         a file for another runtime or processor
      qpass sensitivity out/                        which tensors cost most, and rules for them

    'qpass demo' runs these steps on handwritten digits in a minute or two, with nothing to download.
    """  # noqa: D301 (click reads the backspace)


for command in (presets, quantize, evaluate, verify, bench, report, compare, export, sensitivity, demo):
    add_output_options(command)
    main.add_command(command)

if __name__ == "__main__":
    main()
