"""Graph passes, one per file."""

from qpass.passes.add_residual import AddResidual
from qpass.passes.allocate_bits import AllocateBits
from qpass.passes.analysis.blocks import RequireBlocks
from qpass.passes.analysis.reference import KeepReference
from qpass.passes.annotate import Annotate
from qpass.passes.base import Pass, check_stages
from qpass.passes.calibrate import Calibrate
from qpass.passes.canonicalize import Canonicalize
from qpass.passes.fold_layer_norm import FoldLayerNorm
from qpass.passes.freeze import Freeze
from qpass.passes.insert_quantizers import InsertQuantizers
from qpass.passes.invariants import STAGES
from qpass.passes.narrow_rows import NarrowRows
from qpass.passes.refit import RefitQuantizers
from qpass.passes.ridge_and_gptq import RidgeAndGPTQ
from qpass.passes.rotate_heads import RotateHeads
from qpass.passes.rotate_residual import RotateResidual
from qpass.passes.scale_channels import ScaleChannels
from qpass.passes.scale_queries import ScaleQueries
from qpass.passes.weight_rounding import ResumeWeightRounding, SuspendWeightRounding
from qpass.runtime.public_names import only

__all__ = [
    "STAGES",
    "AddResidual",
    "AllocateBits",
    "Annotate",
    "Calibrate",
    "Canonicalize",
    "FoldLayerNorm",
    "Freeze",
    "InsertQuantizers",
    "KeepReference",
    "NarrowRows",
    "Pass",
    "RefitQuantizers",
    "RequireBlocks",
    "ResumeWeightRounding",
    "RidgeAndGPTQ",
    "RotateHeads",
    "RotateResidual",
    "ScaleChannels",
    "ScaleQueries",
    "SuspendWeightRounding",
    "check_stages",
]
__dir__ = only(__all__)
