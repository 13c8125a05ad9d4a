"""The networks of the accuracy tables, by name."""

from __future__ import annotations

from accuracy_tasks import DEIT_TINY, MNIST
from lanes import LSTR
from plate_reader import PLATE_READER
from point_clouds import MODELNET40, PERTURBED
from saliency import DINOV2
from super_resolution import NGSWIN
from task import Network

NETWORKS: dict[str, Network] = {
    "deit-tiny": DEIT_TINY,
    "plates": PLATE_READER,
    "ngswin": NGSWIN,
    "lstr": LSTR,
    "dinov2": DINOV2,
    "modelnet40": MODELNET40,
    "modelnet40-perturbed": PERTURBED,
    "mnist": MNIST,
}
