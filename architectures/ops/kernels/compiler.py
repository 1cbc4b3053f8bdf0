"""How kernels are compiled: once for each dtype, kept on disk, without the interpreter's lock."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba import literal_unroll
from numba.core.caching import IndexDataCacheFile
from numba.extending import intrinsic, overload

# a loop over several rows is made of vectors if they do not overlap, which LLVM will test for few rows only, unless told
binding.set_option("", "-runtime-memory-check-threshold=128")
SHARED = ("compiler.py", "tiles.py", "vectors.py")  # files whose code kernels call
_EXACT = {"contract", "reassoc", "nsz"}  # infinite and not-a-number values stay what they are


class _Kept(IndexDataCacheFile):
    """Compilations on disk, each with what it is of.

    numba's own are told apart by their index alone: where two processes compile one kernel for different dtypes at once, or one
    is killed between its two writes, what was compiled of older code or for another dtype is found under the name of this.
    """

    def save(self, key: Any, data: Any) -> None:
        super().save(key, (self._source_stamp, key, data))

    def load(self, key: Any) -> Any:
        found = super().load(key)
        return found[2] if found and found[:2] == (self._source_stamp, key) else None


def kernel(function: Callable[..., None]) -> Any:
    """Compile it when it is first called."""
    try:
        compiled: Any = numba.njit(nogil=True, fastmath=_EXACT, error_model="numpy", cache=True)(function)
    except RuntimeError:  # nowhere to keep it
        return numba.njit(nogil=True, fastmath=_EXACT, error_model="numpy")(function)
    cache = compiled._cache
    stamp = (cache._impl.locator.get_source_stamp(), _shared())  # what kernels call is code of theirs
    cache._cache_file = _Kept(cache._cache_path, cache._impl.filename_base, stamp)
    return compiled


def _shared() -> tuple[float, ...]:
    """When the code that kernels share was changed."""
    return tuple(Path(__file__).with_name(name).stat().st_mtime for name in SHARED)


exact = numba.njit(nogil=True, fastmath={"contract"}, error_model="numpy", forceinline=True)
"""For a function of numbers whose operations stay in the order that they are written in; kernels may call it.

It becomes part of the kernel. Functions that one function makes would be told apart only by the order in which a process
compiled them, and those of one kernel that is kept on disk be taken for those of another.
"""


def exp(x: Any) -> Any:
    """In kernels only: e to the x to the last digits, in vectors where it is in a loop. Less than a normal number is 0."""
    raise NotImplementedError


@overload(exp, jit_options={"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"})
def _exp(x):
    """2^n times a power series in x - n log 2, where log 2 is in two parts, the first with few digits."""
    kind, digits, terms = (np.float32, 23, 8) if x == numba.float32 else (np.float64, 52, 14)
    least, most = kind(np.log(np.finfo(kind).tiny)), kind(np.log(np.finfo(kind).max) - 0.5)
    shift, per = kind(1.5 * 2**digits), kind(1 / math.log(2))
    high = kind(0.693359375 if kind is np.float32 else 0.6931471803691238)
    low = kind(-2.12194440054690581e-4 if kind is np.float32 else 1.90821492927058770002e-10)
    series = tuple(kind(1 / math.factorial(i)) for i in reversed(range(terms)))
    nothing, endless = kind(0), kind(np.inf)

    def power(x):
        shifted = (least if x < least else most if x > most else x) * per + shift
        n = shifted - shift
        rest = (x - n * high) - n * low
        result = series[0]
        for term in literal_unroll(series[1:]):
            result = result * rest + term
        result = result * _two_to_the(shifted)  # pyright: ignore[reportCallIssue]
        return nothing if x < least else endless if x > most else result

    return power


@intrinsic
def _two_to_the(context, shifted):
    """2 to the n that is in the last digits of a number shifted by 3/2 of 2^digits."""
    digits, bias = (23, 127) if shifted == numba.float32 else (52, 1023)

    def make(context, builder, signature, arguments):
        bits = builder.bitcast(arguments[0], ir.IntType(shifted.bitwidth))
        power = builder.shl(builder.add(bits, bits.type(bias)), bits.type(digits))
        return builder.bitcast(power, arguments[0].type)

    return shifted(shifted), make
