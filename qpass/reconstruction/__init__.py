"""Block-wise learning of a quantized graph against the float one."""

from qpass.reconstruction.reconstruct import Reconstruct
from qpass.reconstruction.record import BlockRecord

__all__ = ["BlockRecord", "Reconstruct"]
