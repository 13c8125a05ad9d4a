"""A small ViT for scikit-learn's handwritten digits, for ``qpass demo``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qpass.progress import track
from qpass.runtime.extras import from_extra
from qpass.runtime.torch_modes import default_modes, kept_random_state

#: Digits held out for evaluation, and training digits used for calibration.
EVALUATION, CALIBRATION = 500, 128


@dataclass(frozen=True)
class Digits:
    """8x8 digits: images (n, 1, 8, 8) in [0, 1] and labels (n,), in three sets."""

    train: tuple[Tensor, Tensor]
    calibration: Tensor
    evaluation: tuple[Tensor, Tensor]


def load_digits(seed: int = 0) -> Digits:
    """Returns scikit-learn's 1,797 digits, shuffled by the seed; calibration is a subset of training.

    Raises:
        DataError: If scikit-learn is not installed.
    """
    with from_extra("demo", "handwritten digits"):
        from sklearn.datasets import load_digits as load

    images, labels = load(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, y = x[order], y[order]
    train = (x[EVALUATION:], y[EVALUATION:])
    return Digits(train, train[0][:CALIBRATION], (x[:EVALUATION], y[:EVALUATION]))


def train_digits_vit(digits: Digits, *, epochs: int = 40, seed: int = 0, show_progress: bool = True) -> nn.Module:
    """Trains timm's VisionTransformer (patch 2, width 64, 4 blocks, 4 heads) and returns it in eval mode."""
    from timm.models.vision_transformer import VisionTransformer  # slow to import

    with default_modes(), kept_random_state():
        torch.manual_seed(seed)
        model = VisionTransformer(
            img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=64, depth=4, num_heads=4, mlp_ratio=2
        )
        x, y = digits.train
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
        steps = -(-len(x) // 64)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * steps)
        for _ in track(range(epochs), "train", show=show_progress):
            for batch in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(model(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    return model.eval()
