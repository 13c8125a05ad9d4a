"""Numerical methods on plain tensors: GPTQ, ridge regression, bit allocation."""
