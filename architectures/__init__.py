"""Sequence architectures, one backbone a file; `backbone.py` is the contract and `stack.py` the shared residual stack."""
