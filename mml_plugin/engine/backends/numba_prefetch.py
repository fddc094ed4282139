"""Asking for memory before it is needed, which numba has no word for."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

CACHE_LINE = 64
# Arguments of llvm.prefetch: to be read, to be kept in every cache, data.
READ, KEEP, DATA = 0, 3, 1


def _prefetch_row(typing_context, table, row):
    """Ask for row ``row`` of the C-contiguous ``table[I, d]``; the row must exist, and nothing else is checked."""
    if not isinstance(table, types.Array) or table.ndim != 2 or not isinstance(row, types.Integer):
        return None

    def generate(context, builder, signature, arguments):
        table_type, row_type = signature.args
        array = context.make_array(table_type)(context, builder, arguments[0])
        byte, word = ir.IntType(8), ir.IntType(32)
        pointer = builder.bitcast(array.data, byte.as_pointer())
        stride = cgutils.unpack_tuple(builder, array.strides)[0]
        at = context.cast(builder, arguments[1], row_type, types.intp)
        begin = builder.gep(pointer, [builder.mul(at, stride)])
        shape = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), word, word, word])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte.as_pointer()], shape)
        line = ir.Constant(stride.type, CACHE_LINE)
        lines = builder.sdiv(builder.add(stride, ir.Constant(stride.type, CACHE_LINE - 1)), line)
        with cgutils.for_range(builder, lines) as loop:
            place = builder.gep(begin, [builder.mul(loop.index, line)])
            builder.call(prefetch, [place, *(ir.Constant(word, value) for value in (READ, KEEP, DATA))])
        return context.get_dummy_value()

    return types.void(table, row), generate


# prefetch_row(table, row), for compiled functions only.
prefetch_row: Any = intrinsic(_prefetch_row)
