"""Point Transformer, a classifier of point clouds whose attention has a weight for every channel.

Paper: Zhao et al., ICCV 2021, https://arxiv.org/abs/2012.09164. Parameters have the names of the checkpoint that
https://github.com/pierrefdz/point-transformer trained on ModelNet40, whose layout this is: features alone go down, without
coordinates, and the Softmax is divided by the root of the width.

Everything is written in operators that torch.export understands: the loop of the farthest-point sampling is unrolled, and its
first point is the first of the cloud, so that a cloud always gives the same result.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Width of all attention.
_ATTENTION_WIDTH = 64
#: Squared distances are told apart to one part in so many.
_DISTANCE_STEPS = 2**31


class PointTransformer(nn.Module):
    """Clouds (B, points, 6), coordinates inside the unit sphere and normals, to logits (B, classes).

    Args:
        points: Points of a cloud; each of the stages keeps a quarter.
        classes: Width of the output.
        stages: How often points are thinned out and features widened.
        neighbours: Points that attend to one another.
    """

    def __init__(self, points: int = 1024, classes: int = 40, *, stages: int = 4, neighbours: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32))
        self.transformer1 = VectorAttention(32, neighbours)
        widths = [32 * 2**stage for stage in range(stages + 1)]
        self.transition_downs = nn.ModuleList(
            TransitionDown(points // 4 ** (stage + 1), widths[stage], widths[stage + 1], neighbours) for stage in range(stages)
        )
        self.transformers = nn.ModuleList(VectorAttention(width, neighbours) for width in widths[1:])
        hidden = nn.Sequential(nn.Linear(widths[-1], 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU())
        self.fc2 = nn.Sequential(*hidden, nn.Linear(64, classes))

    def forward(self, clouds: Tensor) -> Tensor:
        """See the class."""
        xyz = clouds[..., :3]
        x = self.transformer1(xyz, self.fc1(clouds))
        for down, attention in zip(self.transition_downs, self.transformers, strict=True):
            xyz, x = down(xyz, x)
            x = attention(xyz, x)
        logits: Tensor = self.fc2(x.mean(1))
        return logits


class VectorAttention(nn.Module):
    """y_i = x_i + fc2(Σ_j softmax_j(γ(q_i - k_j + δ_ij) / √d) ⊙ (v_j + δ_ij)) over the nearest points j (eq. 3 of the paper).

    Args:
        width: Of the features.
        neighbours: How many points j there are; all of a cloud that has fewer.
    """

    def __init__(self, width: int, neighbours: int) -> None:
        super().__init__()
        d, self.neighbours = _ATTENTION_WIDTH, neighbours
        self.fc1, self.fc2 = nn.Linear(width, d), nn.Linear(d, width)
        self.fc_delta = nn.Sequential(nn.Linear(3, d), nn.ReLU(), nn.Linear(d, d))
        self.fc_gamma = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d))
        self.phi, self.psi, self.alpha = (nn.Linear(d, d, bias=False) for _ in range(3))

    def forward(self, xyz: Tensor, x: Tensor) -> Tensor:
        """Coordinates (B, N, 3) and features (B, N, width) to features."""
        near = nearest_points(xyz, xyz, self.neighbours)
        hidden = self.fc1(x)
        delta = self.fc_delta(xyz[:, :, None] - take_points(xyz, near))
        difference = self.phi(hidden)[:, :, None] - take_points(self.psi(hidden), near)
        attention = (self.fc_gamma(difference + delta) / _ATTENTION_WIDTH**0.5).softmax(-2)
        values = take_points(self.alpha(hidden), near) + delta
        return x + self.fc2((attention * values).sum(2))  # type: ignore[no-any-return]


class TransitionDown(nn.Module):
    """Keeps the points that lie farthest from each other; each takes the greatest features around it.

    Args:
        points: How many are kept.
        width: Of the features that come in.
        wider: Of those that go out.
        neighbours: Points around each that are asked.
    """

    def __init__(self, points: int, width: int, wider: int, neighbours: int) -> None:
        super().__init__()
        self.points, self.neighbours = points, neighbours
        self.mlp_convs = nn.ModuleList([nn.Conv2d(width, wider, 1), nn.Conv2d(wider, wider, 1)])
        self.mlp_bns = nn.ModuleList([nn.BatchNorm2d(wider), nn.BatchNorm2d(wider)])

    def forward(self, xyz: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates (B, N, 3) and features (B, N, width) to (B, points, 3) and (B, points, wider)."""
        kept = take_points(xyz, farthest_points(xyz, self.points))
        around = take_points(x, nearest_points(kept, xyz, self.neighbours)).permute(0, 3, 2, 1)
        for convolution, norm in zip(self.mlp_convs, self.mlp_bns, strict=True):
            around = norm(convolution(around)).relu()
        return kept, around.amax(2).transpose(1, 2)


def farthest_points(xyz: Tensor, count: int) -> Tensor:
    """Returns the first point and, one after another, the one that is farthest from all so far: indices (B, count)."""
    farthest = torch.zeros_like(xyz[:, :1, 0], dtype=torch.int64)
    distance = torch.full_like(xyz[..., 0], torch.inf)
    chosen = [farthest]
    for _ in range(count - 1):
        distance = distance.minimum((xyz - take_points(xyz, farthest)).square().sum(-1))
        farthest = distance.argmax(-1, keepdim=True)
        chosen.append(farthest)
    return torch.cat(chosen, 1)


def nearest_points(queries: Tensor, xyz: Tensor, count: int) -> Tensor:
    """Returns the points nearest to each query, at most ``count``: (B, Q, 3) and (B, N, 3) to indices (B, Q, count).

    Of points at one distance the first is the nearer: torch says nothing about ties in ``topk``, and a runtime may break them
    otherwise. So distances become whole numbers that leave room for the index below them, and no two are equal.
    """
    points = xyz.shape[1]
    distance = (queries[:, :, None] - xyz[:, None]).square().sum(-1)
    order = (distance * _DISTANCE_STEPS).long() * points + torch.arange(points, device=xyz.device)
    return order.topk(min(count, points), largest=False).indices


def take_points(x: Tensor, index: Tensor) -> Tensor:
    """Returns x (B, N, C) at indices (B, ...) into its points: (B, ..., C)."""
    batch, _, channels = x.shape
    flat = index.reshape(batch, -1, 1).expand(-1, -1, channels)
    return x.gather(1, flat).reshape(*index.shape, channels)
