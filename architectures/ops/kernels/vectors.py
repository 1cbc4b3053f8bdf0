"""Vectors that a kernel keeps in registers from one position to the next, where LLVM by itself would go through memory.

    now = load(initial, at)
    for t in range(length):
        now = muladd(decay, now, load(b, at + t * channels))
        store(h, at + t * channels, now)

Arrays are contiguous, and `at` counts numbers from their first one. Vectors of one kind may be added, subtracted and multiplied;
where a product is added to, `muladd` says so, as what LLVM fuses of its own accord differs from one width to the next.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, lower_builtin, register_model, type_callable

from architectures.ops.kernels.compiler import exact
from architectures.ops.kernels.tiles import WIDTH

LINE = 64  # bytes that come from memory together


class Vector(types.Type):
    """So many numbers of one type; LLVM divides what is wider than a register."""

    def __init__(self, number: types.Float, count: int):
        super().__init__(f"Vector({number}, {count})")
        self.number, self.count = number, count

    def made(self) -> ir.VectorType:
        return ir.VectorType(ir.FloatType() if self.number == types.float32 else ir.DoubleType(), self.count)


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector):
        super().__init__(manager, kind, kind.made())


def _between_vectors(operation: Callable[..., Any], name: str) -> None:
    @type_callable(operation)
    def _(context):
        return lambda x, y: x if isinstance(x, Vector) and x == y else None

    @lower_builtin(operation, Vector, Vector)
    def _(context, builder, signature, arguments):
        return getattr(builder, name)(*arguments)


_between_vectors(operator.add, "fadd")
_between_vectors(operator.sub, "fsub")
_between_vectors(operator.mul, "fmul")


@intrinsic
def _muladd(context, x, y, z):
    def make(context, builder, signature, arguments):
        made, name = x.made(), f"llvm.fmuladd.v{x.count}f{x.number.bitwidth}"
        fmuladd = cgutils.get_or_insert_function(builder.module, ir.FunctionType(made, [made] * 3), name)
        return builder.call(fmuladd, arguments)

    return x(x, x, x), make


muladd: Callable[[Any, Any, Any], Any] = _muladd  # pyright: ignore[reportAssignmentType]
"""x y + z, rounded once where the processor can."""


@type_callable(operator.neg)
def _(context):
    return lambda x: x if isinstance(x, Vector) else None


@lower_builtin(operator.neg, Vector)
def _(context, builder, signature, arguments):
    return builder.fneg(*arguments)


def vectors(registers: float) -> tuple[Any, Any]:
    """For kernels, load(array, at) and store(array, at, vector) of so many registers; of one number where it is 0."""

    @intrinsic
    def load(context, array, at):
        kind = Vector(array.dtype, _lanes(registers, array.dtype.bitwidth // 8))

        def make(context, builder, signature, arguments):
            place = _place(context, builder, kind, signature.args[0], *arguments)
            return builder.load(place, align=array.dtype.bitwidth // 8)

        return kind(array, types.intp), make

    @intrinsic
    def store(context, array, at, vector):
        def make(context, builder, signature, arguments):
            place = _place(context, builder, vector, signature.args[0], *arguments[:2])
            builder.store(arguments[2], place, align=array.dtype.bitwidth // 8)
            return context.get_dummy_value()

        return types.void(array, types.intp, vector), make

    return load, store


@intrinsic
def _prefetch(context, array, at):
    def make(context, builder, signature, arguments):
        first = context.make_array(array)(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(first, [arguments[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [place.type, number, number, number])
        ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(ask, [place, number(0), number(3), number(1)])  # to be read, from the nearest cache, and no code
        return context.get_dummy_value()

    return types.void(array, types.intp), make


@exact
def prefetch(array, at, count):
    """Have so many numbers on their way to the cache before they are needed."""
    for i in range(at, at + count, LINE // array.itemsize):
        _prefetch(array, i)  # pyright: ignore[reportCallIssue]


def pairs(registers: float) -> tuple[Any, Any]:
    """For kernels, load(array, at) and store(array, at, real, imaginary) of complex numbers whose parts take turns in memory."""

    @intrinsic
    def load(context, array, at):
        count = _lanes(registers, array.dtype.bitwidth // 8)
        both, part = Vector(array.dtype, 2 * count), Vector(array.dtype, count)

        def make(context, builder, signature, arguments):
            place = _place(context, builder, both, signature.args[0], *arguments)
            x = builder.load(place, align=array.dtype.bitwidth // 8)
            parts = [builder.shuffle_vector(x, x, _order(range(first, 2 * count, 2))) for first in (0, 1)]
            return context.make_tuple(builder, signature.return_type, parts)

        return types.UniTuple(part, 2)(array, types.intp), make

    @intrinsic
    def store(context, array, at, real, imaginary):
        def make(context, builder, signature, arguments):
            both = Vector(array.dtype, 2 * real.count)
            x = builder.shuffle_vector(*arguments[2:], _order(i // 2 + i % 2 * real.count for i in range(both.count)))
            place = _place(context, builder, both, signature.args[0], *arguments[:2])
            builder.store(x, place, align=array.dtype.bitwidth // 8)
            return context.get_dummy_value()

        return types.void(array, types.intp, real, imaginary), make

    return load, store


def in_strips(make: Callable[[float], Any], registers: int) -> Any:
    """For kernels, do(low, high, n, array, *rest): strip(low, n, array, *rest) for all strips of the channels `low` to `high`.

    `make` makes a strip's function for so many registers of numbers like those of `array`; what is left takes less and less.
    """
    widths = [registers, registers // 2, 1, 1 / 4, 0]
    wide, half, single, quarter, last = (make(width) for width in widths)

    @exact
    def do(low, high, n, array, *rest):
        lanes = WIDTH // array.itemsize
        while low + registers * lanes <= high:
            wide(low, n, array, *rest)
            low += registers * lanes
        if low + registers // 2 * lanes <= high:
            half(low, n, array, *rest)
            low += registers // 2 * lanes
        while low + lanes <= high:
            single(low, n, array, *rest)
            low += lanes
        while low + lanes // 4 <= high:
            quarter(low, n, array, *rest)
            low += lanes // 4
        while low < high:
            last(low, n, array, *rest)
            low += 1

    return do


def _lanes(registers: float, size: int) -> int:
    return max(1, int(registers * WIDTH) // size)


def _order(places: Any) -> ir.Constant:
    places = list(places)
    return ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places)


def _place(context: Any, builder: Any, kind: Vector, array: Any, value: Any, at: Any) -> Any:
    first = context.make_array(array)(context, builder, value).data
    return builder.bitcast(builder.gep(first, [at]), kind.made().as_pointer())
