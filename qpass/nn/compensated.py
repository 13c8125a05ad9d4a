"""Low-rank compensation of a quantized Linear (AILoC).

Paper: AIQViT, https://arxiv.org/abs/2502.04628, eq. 9 and 11-14.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qpass.nn.layers import QuantizedLinear


class CompensatedLinear(QuantizedLinear):
    """y = x Q(W0 + Σ_j m_j ᾱ_j B_j A_j)ᵀ + bias, with ᾱ = softmax(α) over the candidate ranks.

    W0 is frozen. B A is added before rounding, so ``merged`` yields one quantized weight and no
    branch. With one rank there is no α: y = x Q(W0 + B A)ᵀ + bias. A starts Kaiming-uniform and B at
    zero, so the layer starts out equal to the original.

    Args:
        layer: A quantized Linear that is not frozen.
        ranks: Candidate ranks, each capped at the smaller side of the weight; duplicates are dropped.
        generator: Random generator for A.
    """

    def __init__(self, layer: QuantizedLinear, ranks: Sequence[int], generator: torch.Generator | None = None) -> None:
        assert layer.weight is not None, "a frozen layer has no float weight"
        super().__init__(layer.weight, layer.bias, layer.quantizer)
        self.requires_grad_(False)
        outputs, inputs = layer.weight.shape
        self.ranks = tuple(sorted({min(rank, outputs, inputs) for rank in ranks}))
        # All pairs side by side: one product for all candidates, columns of B weighted by candidate.
        bound = math.sqrt(6 / ((1 + 5) * inputs))  # kaiming_uniform_ with a = sqrt(5), as in nn.Linear
        a = (torch.rand(sum(self.ranks), inputs, generator=generator) * 2 - 1) * bound
        device = layer.weight.device
        self.A = nn.Parameter(a.to(device))
        self.B = nn.Parameter(torch.zeros(outputs, sum(self.ranks), device=device))
        self.alpha = nn.Parameter(torch.zeros(len(self.ranks), device=device))
        self.register_buffer("mask", torch.ones(len(self.ranks), device=device), persistent=False)

    mask: Tensor

    def draw_mask(self, drop_path: float, generator: torch.Generator) -> None:
        """Draws the mask m_j, 0 with probability ``drop_path``, for the next steps."""
        keep = torch.rand(len(self.ranks), generator=generator) >= drop_path
        self.mask = keep.to(self.alpha.device, torch.float32)

    def architecture(self) -> Tensor:
        """Returns ᾱ: (ranks,), summing to one."""
        return self.alpha.softmax(0)

    def entropy(self) -> float:
        """Returns the normalized entropy of ᾱ: 1 if all shares are equal."""
        shares = self.architecture().detach()
        return float(-(shares * shares.log()).sum()) / math.log(len(self.ranks))

    def effective_weight(self) -> Tensor:
        """Returns W0 + Σ_j m_j ᾱ_j B_j A_j, the weight before rounding: (out, in)."""
        assert self.weight is not None, "a frozen layer has no float weight"
        b: Tensor = self.B
        if len(self.ranks) > 1:
            share = self.architecture() * self.mask
            b = b * share.repeat_interleave(torch.tensor(self.ranks, device=share.device))
        with torch.autocast(b.device.type, enabled=False):  # a low-precision product would give other codes when merged
            return self.weight + b @ self.A

    def choose(self) -> int:
        """Keeps only the rank with the largest ᾱ and its factors, and returns that rank.

        ᾱ is folded into B, so that the factors contribute the same as in the search.
        """
        best = int(self.alpha.argmax())
        first = sum(self.ranks[:best])
        chosen = slice(first, first + self.ranks[best])
        with torch.no_grad():
            share = self.architecture()[best]
            self.A = nn.Parameter(self.A[chosen].clone())
            self.B = nn.Parameter(self.B[:, chosen] * share)
            self.alpha, self.mask = nn.Parameter(self.alpha[:1] * 0), torch.ones_like(self.mask[:1])
        self.ranks = (self.ranks[best],)
        return self.ranks[0]

    def merged(self) -> QuantizedLinear:
        """Returns a plain quantized Linear whose weight is W0 + B A."""
        layer = QuantizedLinear(self.effective_weight().detach(), self.bias, self.quantizer)
        return layer.requires_grad_(False)
