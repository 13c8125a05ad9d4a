"""Runs files in OpenVINO, and explains where their time goes there."""

from qpass.backends.openvino.explain import OpenVinoExplanation, explain_in_openvino
from qpass.backends.openvino.session import OpenVinoSession
from qpass.runtime.public_names import only

__all__ = ["OpenVinoExplanation", "OpenVinoSession", "explain_in_openvino"]
__dir__ = only(__all__)
