"""Captures a module as a functional graph of aten operators, and leaves the module unchanged."""
