"""Operations on blocks of bytes, written as vector instructions: LLVM's own vectorizer does not find them.

Each is a function for compiled code that takes arrays and positions in bytes. It checks no bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_intrinsic: Callable[[Callable[..., Any]], Any] = intrinsic
LANES = 32  #: outputs of one call of `weighted_sum`
ROWS, PIXELS = 16, 16  #: the block of `transpose_pixels`

_BYTE, _SHORT, _INT, _LONG = (ir.IntType(bits) for bits in (8, 16, 32, 64))


def _data(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """The address of the first byte of an array."""
    return builder.bitcast(context.make_array(kind)(context, builder, array).data, _BYTE.as_pointer())


def _load(builder: Any, base: Any, offset: Any, element: Any, count: int) -> Any:
    where = builder.bitcast(builder.gep(base, [offset]), ir.VectorType(element, count).as_pointer())
    return builder.load(where, align=1)


def _store(builder: Any, vector: Any, base: Any, offset: Any) -> None:
    builder.store(vector, builder.bitcast(builder.gep(base, [offset]), vector.type.as_pointer()), align=1)


def _rows(builder: Any, base: Any, begin: Any, stride: Any, element: Any, shape: tuple[int, int]) -> list[Any]:
    offsets = (builder.add(begin, builder.mul(stride, _LONG(row))) for row in range(shape[0]))
    return [_load(builder, base, offset, element, shape[1]) for offset in offsets]


def _interleaved(builder: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """(a0, b0, a1, b1, …) in two vectors."""
    n = a.type.count
    masks = [ir.Constant(ir.VectorType(_INT, n), [i + n * j for i in half for j in (0, 1)])
             for half in (range(n // 2), range(n // 2, n))]  # fmt: skip
    return builder.shuffle_vector(a, b, masks[0]), builder.shuffle_vector(a, b, masks[1])


def _joined(builder: Any, a: Any, b: Any) -> Any:
    count = 2 * a.type.count
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT, count), list(range(count))))


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """n vectors of n elements, transposed; n is a power of two."""
    half = len(rows) // 2
    for _ in range(half.bit_length()):
        rows = [part for i in range(half) for part in _interleaved(builder, rows[i], rows[i + half])]
    return rows


@_intrinsic
def transpose_pixels(_typing: Any, target: Any, begin: Any, stride: Any, source: Any, first: Any, pitch: Any) -> Any:
    """Transpose 16 rows of 16 RGB pixels to planes of pairs.

    Row 3p + c of the result has the bytes of channel c of pixels 2p and 2p + 1, alternating, one pair per row of the
    source.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, at, step, of, start, width = args
        to = _data(context, builder, signature.args[0], to)
        of = _data(context, builder, signature.args[3], of)
        columns = []
        for part in range(3):
            begins = builder.add(start, _LONG(ROWS * part))
            columns += _transposed(builder, _rows(builder, of, begins, width, _BYTE, (ROWS, 16)))
        for pair in range(PIXELS // 2):
            for c in range(3):
                both = _joined(builder, *_interleaved(builder, columns[6 * pair + c], columns[6 * pair + 3 + c]))
                _store(builder, both, to, builder.add(at, builder.mul(step, _LONG(3 * pair + c))))
        return context.get_dummy_value()

    place = (types.intp, types.intp)
    return types.void(target, *place, source, *place), codegen


@_intrinsic
def transpose_pairs(_typing: Any, target: Any, begin: Any, stride: Any, source: Any, first: Any, pitch: Any) -> Any:
    """Transpose 8 rows of 8 pairs of bytes; a pair stays together."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, at, step, of, start, width = args
        to = _data(context, builder, signature.args[0], to)
        of = _data(context, builder, signature.args[3], of)
        for row, vector in enumerate(_transposed(builder, _rows(builder, of, start, width, _SHORT, (8, 8)))):
            _store(builder, vector, to, builder.add(at, builder.mul(step, _LONG(row))))
        return context.get_dummy_value()

    place = (types.intp, types.intp)
    return types.void(target, *place, source, *place), codegen


def _pairs_times(context: Any, builder: Any, pairs: Any, weights: Any) -> Any:
    """Of each pair of bytes the sum of its products with a pair of weights, int32 (LANES,).

    Args:
        context: of numba.
        builder: of LLVM.
        pairs: <2 * LANES x i8>.
        weights: i32, two int16.
    """
    words = builder.zext(pairs, ir.VectorType(_SHORT, 2 * LANES))
    # splat(weights) as pairs of int16
    n = 16 if "+avx512bw" in context.codegen().magic_tuple()[2].split(",") else 8
    one = builder.insert_element(ir.Constant(ir.VectorType(_INT, n), ir.Undefined), weights, _INT(0))
    splat = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_INT, n), [0] * n))
    splat = builder.bitcast(splat, ir.VectorType(_SHORT, 2 * n))
    parts = []
    for part in range(LANES // n):
        mask = ir.Constant(ir.VectorType(_INT, 2 * n), list(range(2 * n * part, 2 * n * part + 2 * n)))
        parts.append(_multiply_add(context, builder, builder.shuffle_vector(words, words, mask), splat))
    while len(parts) > 1:
        parts = [_joined(builder, a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _multiply_add(context: Any, builder: Any, a: Any, b: Any) -> Any:
    """<8 x i32>: a[0] * b[0] + a[1] * b[1], … of two <16 x i16>."""
    if _has_avx2(context):
        kind = ir.FunctionType(ir.VectorType(_INT, a.type.count // 2), [a.type, b.type])
        name = "llvm.x86.avx512.pmaddw.d.512" if a.type.count == 32 else "llvm.x86.avx2.pmadd.wd"
        called = builder.module.declare_intrinsic(name, (), kind)
        return builder.call(called, [a, b])
    wide = ir.VectorType(_INT, 16)
    product = builder.mul(builder.sext(a, wide), builder.sext(b, wide))
    masks = (ir.Constant(ir.VectorType(_INT, 8), list(range(odd, 16, 2))) for odd in (0, 1))
    return builder.add(*(builder.shuffle_vector(product, product, mask) for mask in masks))


def _has_avx2(context: Any) -> bool:
    return "+avx2" in context.codegen().magic_tuple()[2].split(",")


@_intrinsic
def weighted_sum(_typing: Any, target: Any, begin: Any, source: Any, first: Any, pitch: Any, weights: Any, number: Any,
                 count: Any, precision: Any) -> Any:  # fmt: skip
    """Write LANES bytes: for each the weighted sum of `count` pairs, one of each row, rounded and clipped.

    Args: the result and where it begins; the rows of pairs, where the first begins, and the distance of two; int32
    weights, the place of the first and their number, each two int16 in units of 1 / 2^precision.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, at, of, start, width, weight, place, pairs, shift = args
        to = _data(context, builder, signature.args[0], to)
        of = _data(context, builder, signature.args[2], of)
        weight = context.make_array(signature.args[5])(context, builder, weight).data
        vector = ir.VectorType(_INT, LANES)

        def splat(value: Any) -> Any:
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, _INT(0))
            return builder.shuffle_vector(one, one, ir.Constant(vector, [0] * LANES))

        shift = builder.trunc(shift, _INT)
        half = builder.shl(_INT(1), builder.sub(shift, _INT(1)))
        before, body, after = builder.block, builder.append_basic_block("pair"), builder.append_basic_block("sum")
        begin_sum = splat(half)
        builder.branch(body)  # there is at least one pair
        builder.position_at_end(body)
        i, total = builder.phi(_LONG), builder.phi(vector)
        data = _load(builder, of, builder.add(start, builder.mul(i, width)), _BYTE, 2 * LANES)
        factor = builder.load(builder.gep(weight, [builder.add(place, i)]))
        new = builder.add(total, _pairs_times(context, builder, data, factor))
        following = builder.add(i, _LONG(1))
        i.add_incoming(_LONG(0), before)
        i.add_incoming(following, body)
        total.add_incoming(begin_sum, before)
        total.add_incoming(new, body)
        builder.cbranch(builder.icmp_signed("<", following, pairs), body, after)
        builder.position_at_end(after)
        value = builder.ashr(new, splat(shift))
        for bound, comparison in ((0, "<"), (255, ">")):
            limit = ir.Constant(vector, [bound] * LANES)
            value = builder.select(builder.icmp_signed(comparison, value, limit), limit, value)
        _store(builder, builder.trunc(value, ir.VectorType(_BYTE, LANES)), to, at)
        return context.get_dummy_value()

    place = types.intp
    signature = types.void(target, place, source, place, place, weights, place, place, place)
    return signature, codegen
