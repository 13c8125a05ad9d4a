"""Runs files in OpenVINO, and explains where their time goes there."""

from qpass.backends.openvino.explain import OpenVinoExplanation, explain_in_openvino
from qpass.backends.openvino.session import OpenVinoSession

__all__ = ["OpenVinoExplanation", "OpenVinoSession", "explain_in_openvino"]
