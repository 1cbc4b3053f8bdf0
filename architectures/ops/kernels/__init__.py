"""Compiled kernels; imported where numba is installed, by `architectures.ops.native` only."""
