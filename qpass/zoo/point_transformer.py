"""Point Transformer: classifies point clouds or labels their points; attention per channel.

Paper: Zhao et al., ICCV 2021, https://arxiv.org/abs/2012.09164. Layout and parameter names are
those of the checkpoint that https://github.com/pierrefdz/point-transformer trained on ModelNet40:
only features are passed down, without coordinates, and the input of the Softmax is divided by the
root of the width.

All operators are supported by torch.export: the loop of farthest-point sampling is unrolled. It
starts at the first point of the cloud, so that a cloud always gives the same result.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

#: Width of all attention.
_ATTENTION_WIDTH = 64
#: Squared distances are compared in steps of 1 over this.
_DISTANCE_STEPS = 2**31


class _Trunk(nn.Module):
    """The encoder shared by classification and segmentation."""

    def __init__(self, points: int, stages: int, neighbours: int) -> None:
        super().__init__()
        self.widths = [32 * 2**stage for stage in range(stages + 1)]
        self.fc1 = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32))
        self.transformer1 = VectorAttention(32, neighbours)
        pairs = enumerate(pairwise(self.widths), 1)
        self.transition_downs = nn.ModuleList(
            TransitionDown(points // 4**stage, width, wider, neighbours) for stage, (width, wider) in pairs
        )
        self.transformers = nn.ModuleList(VectorAttention(width, neighbours) for width in self.widths[1:])

    def levels(self, clouds: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Returns coordinates and features of every level, from all points to the fewest."""
        xyz = clouds[..., :3]
        found = [(xyz, self.transformer1(xyz, self.fc1(clouds)))]
        for down, attention in zip(self.transition_downs, self.transformers, strict=True):
            xyz, x = down(*found[-1])
            found.append((xyz, attention(xyz, x)))
        return found


class PointTransformer(_Trunk):
    """Maps clouds (B, points, 6), coordinates in the unit sphere and normals, to logits (B, classes).

    Args:
        points: Points of a cloud; each stage keeps a quarter.
        classes: Number of classes.
        stages: Number of stages; each subsamples points and widens features.
        neighbours: Nearest points that each point attends to.
    """

    def __init__(self, points: int = 1024, classes: int = 40, *, stages: int = 4, neighbours: int = 16) -> None:
        super().__init__(points, stages, neighbours)
        hidden = nn.Sequential(nn.Linear(self.widths[-1], 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU())
        self.fc2 = nn.Sequential(*hidden, nn.Linear(64, classes))

    def forward(self, clouds: Tensor) -> Tensor:
        """See the class."""
        (*_, (_, x)) = self.levels(clouds)
        logits: Tensor = self.fc2(x.mean(1))
        return logits


class PointTransformerSegmentation(_Trunk):
    """Maps clouds (B, points, 6) to logits for every point (B, points, parts).

    The same encoder, and a decoder (section 3.4).

    Args:
        points: Points of a cloud; each stage keeps a quarter.
        parts: Number of outputs: all parts of all kinds of objects.
        stages: Number of stages; each subsamples points and widens features.
        neighbours: Nearest points that each point attends to.
    """

    def __init__(self, points: int = 1024, parts: int = 50, *, stages: int = 4, neighbours: int = 16) -> None:
        super().__init__(points, stages, neighbours)
        narrower = self.widths[-2::-1]
        self.transition_ups = nn.ModuleList(TransitionUp(2 * width, width) for width in narrower)
        self.up_transformers = nn.ModuleList(VectorAttention(width, neighbours) for width in narrower)
        self.fc2 = nn.Sequential(nn.Linear(self.widths[0], 64), nn.ReLU(), nn.Linear(64, parts))

    def forward(self, clouds: Tensor) -> Tensor:
        """See the class."""
        *levels, (xyz, x) = self.levels(clouds)
        for (finer, skipped), up, attention in zip(reversed(levels), self.transition_ups, self.up_transformers, strict=True):
            x = attention(finer, up(xyz, x, finer, skipped))
            xyz = finer
        logits: Tensor = self.fc2(x)
        return logits


class VectorAttention(nn.Module):
    """Attention of each point to its nearest points, with a weight for each channel (eq. 3).

    y_i = x_i + fc2(Σ_j softmax_j(γ(q_i - k_j + δ_ij) / √d) ⊙ (v_j + δ_ij)) over the nearest points j.

    Args:
        width: Width of the features.
        neighbours: Number of points j; all points of a smaller cloud.
    """

    def __init__(self, width: int, neighbours: int) -> None:
        super().__init__()
        d, self.neighbours = _ATTENTION_WIDTH, neighbours
        self.fc1, self.fc2 = nn.Linear(width, d), nn.Linear(d, width)
        self.fc_delta = nn.Sequential(nn.Linear(3, d), nn.ReLU(), nn.Linear(d, d))
        self.fc_gamma = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d))
        self.phi, self.psi, self.alpha = (nn.Linear(d, d, bias=False) for _ in range(3))

    def forward(self, xyz: Tensor, x: Tensor) -> Tensor:
        """Maps coordinates (B, N, 3) and features (B, N, width) to features of the same shape."""
        near = nearest_points(xyz, xyz, self.neighbours)
        hidden = self.fc1(x)
        delta = self.fc_delta(xyz[:, :, None] - take_points(xyz, near))
        difference = self.phi(hidden)[:, :, None] - take_points(self.psi(hidden), near)
        attention = (self.fc_gamma(difference + delta) / _ATTENTION_WIDTH**0.5).softmax(-2)
        values = take_points(self.alpha(hidden), near) + delta
        return x + self.fc2((attention * values).sum(2))  # type: ignore[no-any-return]


class TransitionDown(nn.Module):
    """Keeps the points farthest from each other, with features max-pooled over the neighbours of each.

    Args:
        points: Number of points kept.
        width: Width of the input features.
        wider: Width of the output features.
        neighbours: Neighbours to pool over.
    """

    def __init__(self, points: int, width: int, wider: int, neighbours: int) -> None:
        super().__init__()
        self.points, self.neighbours = points, neighbours
        self.mlp_convs = nn.ModuleList([nn.Conv2d(width, wider, 1), nn.Conv2d(wider, wider, 1)])
        self.mlp_bns = nn.ModuleList([nn.BatchNorm2d(wider), nn.BatchNorm2d(wider)])

    def forward(self, xyz: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps coordinates (B, N, 3) and features (B, N, width) to (B, points, 3) and (B, points, wider)."""
        kept = take_points(xyz, farthest_points(xyz, self.points))
        around = take_points(x, nearest_points(kept, xyz, self.neighbours)).permute(0, 3, 2, 1)
        for convolution, norm in zip(self.mlp_convs, self.mlp_bns, strict=True):
            around = norm(convolution(around)).relu()
        return kept, around.amax(2).transpose(1, 2)


class TransitionUp(nn.Module):
    """Interpolates features of few points to many: x_i = fc2(y_i) + Σ_j w_ij fc1(x_j) over the 3 nearest.

    Weights are inverse squared distances, normalized to sum to one, as in PointNet++ (arXiv 1706.02413,
    eq. 2).

    Args:
        width: Width of the few points' features.
        narrower: Width of the many points' features, and of the output.
    """

    def __init__(self, width: int, narrower: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, narrower), nn.Linear(narrower, narrower)

    def forward(self, few: Tensor, x: Tensor, many: Tensor, skipped: Tensor) -> Tensor:
        """Maps few points (B, n, 3), (B, n, width) and many, (B, N, 3), (B, N, narrower), to (B, N, narrower)."""
        near = nearest_points(many, few, 3)
        distance = (many[:, :, None] - take_points(few, near)).square().sum(-1, keepdim=True)
        closeness = 1 / (distance + 1e-6)
        weights = closeness / closeness.sum(2, keepdim=True)
        brought: Tensor = self.fc2(skipped) + (weights * take_points(self.fc1(x), near)).sum(2)
        return brought


def farthest_points(xyz: Tensor, count: int) -> Tensor:
    """Returns the first point and, one by one, the point farthest from all so far: indices (B, count)."""
    farthest = torch.zeros_like(xyz[:, :1, 0], dtype=torch.int64)
    distance = torch.full_like(xyz[..., 0], torch.inf)
    chosen = [farthest]
    for _ in range(count - 1):
        distance = distance.minimum((xyz - take_points(xyz, farthest)).square().sum(-1))
        farthest = distance.argmax(-1, keepdim=True)
        chosen.append(farthest)
    return torch.cat(chosen, 1)


def nearest_points(queries: Tensor, xyz: Tensor, count: int) -> Tensor:
    """Returns the ``count`` nearest points of each query: (B, Q, 3), (B, N, 3) to (B, Q, count).

    Ties go to the lower index. torch does not specify ties in ``topk``, and a runtime may break them
    differently. So distances become integers with the index in their low part, and no two are equal.
    """
    points = xyz.shape[1]
    distance = (queries[:, :, None] - xyz[:, None]).square().sum(-1)
    order = (distance * _DISTANCE_STEPS).long() * points + torch.arange(points, device=xyz.device)
    return order.topk(min(count, points), largest=False).indices


def take_points(x: Tensor, index: Tensor) -> Tensor:
    """Returns x (B, N, C) at point indices (B, ...): (B, ..., C)."""
    batch, _, channels = x.shape
    flat = index.reshape(batch, -1, 1).expand(-1, -1, channels)
    return x.gather(1, flat).reshape(*index.shape, channels)
