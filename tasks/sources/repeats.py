"""Where a symbol of a sequence was seen before."""

import numpy as np
from jaxtyping import Int


def back(symbols: Int[np.ndarray, "size length"]) -> Int[np.ndarray, "size length"]:
    """How far back in its row each symbol was seen last; 0 where it is new."""
    order = np.argsort(symbols, 1, kind="stable")
    ordered = np.take_along_axis(symbols, order, 1)
    steps, found = np.zeros_like(order), np.zeros_like(order)
    steps[:, 1:] = np.where(ordered[:, 1:] == ordered[:, :-1], order[:, 1:] - order[:, :-1], 0)
    np.put_along_axis(found, order, steps, 1)
    return found
