"""Numerical methods on plain tensors: GPTQ, ridge regression, allocation of bits."""
