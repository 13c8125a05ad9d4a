"""Block-wise learning of a quantized graph against the float one."""

from qpass.reconstruction.reconstruct import Reconstruct
from qpass.reconstruction.record import BlockRecord
from qpass.runtime.public_names import only

__all__ = ["BlockRecord", "Reconstruct"]
__dir__ = only(__all__)
