"""Primitives that backbones share: the fast function, its slow definition and its cost, side by side."""
