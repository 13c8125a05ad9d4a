"""What free levels are, in one picture: the output of a GELU, its levels and the table of bytes.

Run: python benchmarks/codebook_picture.py
Writes: benchmarks/results/codebook.svg, from the first GELU of the ViT for MNIST.
"""

from __future__ import annotations

from pathlib import Path

import torch
from accuracy_tasks import mnist
from pictures import picture, save
from torch import Tensor, nn

from qpass.quantizers import ByteTable, Codebook, Uniform

RESULTS = Path(__file__).parent / "results"
BITS, DIGITS = 3, 64


def gelu_output() -> Tensor:
    """Returns the output of the network's first GELU."""
    task, found = mnist(), list[Tensor]()
    first = next(module for module in task.model.modules() if isinstance(module, nn.GELU))
    handle = first.register_forward_hook(lambda module, inputs, output: found.append(output))
    with torch.no_grad():
        task.model(torch.cat(task.calibration(DIGITS)[0]))
    handle.remove()
    return found[0].flatten()


def signal_to_noise(quantizer: Codebook | Uniform, x: Tensor) -> float:
    """Returns the signal-to-quantization-noise ratio in dB."""
    return float(10 * (x.square().sum() / (quantizer(x) - x).square().sum()).log10())


def main() -> None:
    """Draw the picture."""
    x = gelu_output()
    codebook, uniform = Codebook(BITS).fit(x), Uniform(BITS).fit(x)
    table = ByteTable.of(codebook)
    figure, (left, right) = picture(1, 2, figsize=(10, 3.6))
    cells = table.codes(x)
    left.hist(cells.numpy(), bins=256, range=(-0.5, 255.5), color="0.7", log=True, histtype="stepfilled")
    for quantizer, style, name in ((uniform, ":", "uniform"), (codebook, "-", "free")):
        places = quantizer.levels() / table.scale + table.zero_point
        label = f"{2**BITS} {name} levels, {signal_to_noise(quantizer, x):.1f} dB"
        for index, place in enumerate(places.tolist()):
            color = "C1" if name == "free" else "C0"
            left.axvline(place, linestyle=style, color=color, label=label if index == 0 else None)
    left.set(xlabel="cell of the 8-bit grid", ylabel="values", title="1. Where values lie, and the levels", xlim=(-3, 258))
    left.legend(fontsize=8)
    right.step(range(256), table.table.tolist(), where="mid", color="C1")
    right.plot((0, 255), (0, 255), linestyle=":", color="0.5")
    right.set(xlabel="cell of the 8-bit grid", ylabel="byte that is multiplied", title="2. The table of 256 bytes")
    save(figure, RESULTS / "codebook.svg")


if __name__ == "__main__":
    main()
