"""Random numbers inside compiled generators: SplitMix64, the same on every machine.

Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014, figure 16.
"""

from collections.abc import Callable
from typing import Any, no_type_check

import numba
import numpy as np
from jaxtyping import UInt64

STEP, FIRST, SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
A, B, C, HALF = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32)
LOW = np.uint64(0xFFFFFFFF)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile it when it is first called, and keep it on disk where that is possible."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)


def start(rng: np.random.Generator) -> UInt64[np.ndarray, "1"]:
    """The state of a generator for compiled code; `following` and `below` move it on."""
    return rng.integers(0, 2**64, 1, np.uint64)


@compiled
@no_type_check
def following(state):
    """64 random bits."""
    state[0] += STEP
    mixed = state[0]
    mixed = (mixed ^ (mixed >> A)) * FIRST
    mixed = (mixed ^ (mixed >> B)) * SECOND
    return mixed ^ (mixed >> C)


@compiled
@no_type_check
def scaled(bits, bound):
    """The low 32 of some random bits as a whole number from 0 to bound - 1, each as likely but for bound / 2^32."""
    return np.int64(((bits & LOW) * np.uint64(bound)) >> HALF)


@compiled
@no_type_check
def below(state, bound):
    """A random whole number from 0 to bound - 1."""
    return scaled(following(state), bound)
