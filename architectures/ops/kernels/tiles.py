"""Products of small matrices whose sums stay in registers, where LLVM by itself would not keep them.

A sum over k goes up in k whatever the tile, so the rows may be divided in any way and are the same to the last bit.
"""

from typing import Any

import numba
from llvmlite import binding, ir
from numba.core import cgutils
from numba.extending import intrinsic

from architectures.ops.kernels.compiler import exact

# bytes of a vector and how many of them hold sums: half of the registers, or less
WIDTH, SUMS = (64, 16) if binding.get_host_cpu_features().get("avx512f") else (32, 8)


def product(*, turned: bool = False, fresh: bool = False) -> Any:
    """For kernels, multiply(out, left, right): out += left right, or out = left right where it is `fresh`; with the transpose of
    left where that is `turned`. All are contiguous; columns come in multiples of 32 bytes.
    """
    four, two, one = (_strip(rows, turned, fresh) for rows in (4, 2, 1))

    @exact
    def multiply(out, left, right):
        rows = len(out)
        for row in range(0, rows - 3, 4):
            four(out, left, right, row)
        if rows & 2:
            two(out, left, right, rows - rows % 4)
        if rows & 1:
            one(out, left, right, rows - 1)

    return multiply


def _strip(rows: int, turned: bool, fresh: bool) -> Any:
    """strip(out, left, right, row): `product` for these rows and all columns."""
    vectors = SUMS // rows
    wide, half, narrow = (
        _tile(rows, count, width, turned, fresh) for count, width in ((vectors, WIDTH), (vectors // 2, WIDTH), (1, 32))
    )

    @exact
    def strip(out, left, right, row):
        columns, step, least = right.shape[1], vectors * WIDTH // right.itemsize, 32 // right.itemsize
        column = 0
        while column + step <= columns:
            wide(out, left, right, row, column)
            column += step
        if column + step // 2 <= columns:
            half(out, left, right, row, column)
            column += step // 2
        while column < columns:
            narrow(out, left, right, row, column)
            column += least

    return strip


def _tile(rows: int, vectors: int, width: int, turned: bool, fresh: bool) -> Any:
    """tile(out, left, right, row, column): `product` for these rows and as many vectors of columns."""

    @intrinsic
    def tile(context, out, left, right, row, column):
        number = ir.FloatType() if out.dtype == numba.float32 else ir.DoubleType()
        size = out.dtype.bitwidth // 8
        vector = ir.VectorType(number, width // size)

        def make(context, builder, signature, arguments):
            kinds = signature.args[:3]
            sums, a, b = (context.make_array(kind)(context, builder, x) for kind, x in zip(kinds, arguments[:3], strict=True))
            inner, columns = (builder.extract_value(b.shape, axis) for axis in (0, 1))
            height = builder.extract_value(a.shape, 1)
            lines = [builder.add(arguments[3], inner.type(i)) for i in range(rows)]
            starts = [builder.add(arguments[4], inner.type(i * vector.count)) for i in range(vectors)]

            def place(array, line, width, start):
                return builder.gep(array.data, [builder.add(builder.mul(line, width), start)])

            def pointer(array, line, start):
                return builder.bitcast(place(array, line, columns, start), vector.as_pointer())

            def filled(x):
                one = builder.insert_element(ir.Constant(vector, ir.Undefined), x, ir.IntType(32)(0))
                return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None))

            ends = [[pointer(sums, line, start) for start in starts] for line in lines]
            zero = ir.Constant(vector, None)
            begun = [[zero if fresh else builder.load(x, align=size) for x in line] for line in ends]
            totals = [[cgutils.alloca_once_value(builder, x) for x in line] for line in begun]
            with cgutils.for_range(builder, inner) as loop:
                now = [builder.load(pointer(b, loop.index, start), align=size) for start in starts]
                for line, line_totals in zip(lines, totals, strict=True):
                    at = (loop.index, height, line) if turned else (line, inner, loop.index)
                    x = filled(builder.load(place(a, *at)))
                    for y, total in zip(now, line_totals, strict=True):
                        product = builder.fmul(x, y, flags=["contract"])
                        builder.store(builder.fadd(builder.load(total), product, flags=["contract"]), total)
            for line, line_totals in zip(ends, totals, strict=True):
                for end, total in zip(line, line_totals, strict=True):
                    builder.store(builder.load(total), end, align=size)
            return context.get_dummy_value()

        return numba.void(out, left, right, row, column), make

    return tile
