"""Vectors as LLVM IR: what this CPU has, and the register tile of the matrix product.

LLVM does not keep a register tile of accumulators by itself, so the micro-kernel is emitted as explicit
vector instructions. Everything is decided from the features Numba *targets* (``NUMBA_CPU_FEATURES`` and
``NUMBA_CPU_NAME`` count), not from the host's name.
"""

from __future__ import annotations

import functools
import pathlib
import platform
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils, codegen
from numba.core import config as _numba_config
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

_config: Any = _numba_config
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)


class Target(NamedTuple):
    """Vector registers of the target: width in bytes, fused multiply-add, rows of the register tile."""

    vector_bytes: int
    fma: bool
    tile_rows: int


@functools.cache
def target() -> Target:
    """Return the vector shape of the CPU that Numba compiles for.

    Tile rows fill the register file with accumulators two vectors wide: 14 x 2 of 32 (AVX-512),
    12 x 2 of 32 (NEON), 6 x 2 of 16 (AVX2, SSE2).
    """
    flags = _config.CPU_FEATURES
    if flags is None:
        flags = codegen.get_host_cpu_features()
    features = set(flags.split(","))
    if platform.machine().lower() in ("aarch64", "arm64"):
        return Target(16, True, 12)
    fma = "+fma" in features
    if "+avx512f" in features:
        return Target(64, fma, 14)
    if "+avx" in features:
        return Target(32, fma, 6)
    return Target(16, fma, 6)


@functools.cache
def first_cache_ways() -> int:
    """Return how many lines the first data cache keeps of those that lie whole pages apart; 8 where it does not say."""
    try:
        return int(pathlib.Path("/sys/devices/system/cpu/cpu0/cache/index0/ways_of_associativity").read_text())
    except (OSError, ValueError):
        return 8


TILE_ROWS = target().tile_rows
"""MR: rows of C that one micro-kernel call holds in registers."""

VECTORS = 2
"""Vectors per tile row: the tile is MR x (2 * lanes)."""


def lanes(bits: int) -> int:
    """Return how many floats of `bits` bits fit in one vector."""
    return target().vector_bytes * 8 // bits


def _vector_type(element: types.Float) -> ir.VectorType:
    scalar = ir.FloatType() if element.bitwidth == 32 else ir.DoubleType()
    return ir.VectorType(scalar, lanes(element.bitwidth))


def _constant(numbers: Any, value: int) -> Any:
    """Return what an intrinsic's typing returns for an integer that the type of an array or address tells."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(_I64, value)

    return types.int64(numbers), generate


@intrinsic
def tile_columns(typingctx: Any, numbers: Any) -> Any:
    """Return NR, the columns of C one micro-kernel call holds in registers, for an array or address of such numbers."""
    return _constant(numbers, VECTORS * lanes(numbers.dtype.bitwidth))


@intrinsic
def vector_lanes(typingctx: Any, numbers: Any) -> Any:
    """Return how many elements of an array, or at an address, fit in one vector."""
    return _constant(numbers, lanes(numbers.dtype.bitwidth))


@intrinsic
def item_bytes(typingctx: Any, numbers: Any) -> Any:
    """Return how many bytes an element of an array, or at an address, has."""
    return _constant(numbers, numbers.dtype.bitwidth // 8)


@intrinsic
def pointer(typingctx: Any, array: Any, offset: Any) -> Any:
    """Return the address of element `offset` of a C-contiguous 1-D array.

    The caller keeps the array alive and the access in bounds.
    """
    if not (isinstance(array, types.Array) and array.ndim == 1 and array.layout == "C"):
        return None
    if not isinstance(offset, types.Integer):
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = make_array(signature.args[0])(context, builder, args[0]).data
        return builder.gep(data, [args[1]])

    return types.CPointer(array.dtype)(array, types.intp), generate


@intrinsic
def advance(typingctx: Any, address: Any, count: Any) -> Any:
    """Return the address `count` elements further."""
    if not isinstance(address, types.CPointer) or not isinstance(count, types.Integer):
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return address(address, types.intp), generate


def _prefetch(builder: Any, address: Any, to_write: bool, locality: int = 3) -> None:
    kinds = [address.type, _I32, _I32, _I32]
    fetch = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), kinds), "llvm.prefetch.p0")
    builder.call(fetch, [address, *[ir.Constant(_I32, flag) for flag in (int(to_write), locality, 1)]])


@intrinsic
def prefetch(typingctx: Any, address: Any) -> Any:
    """Ask for the cache line at an address, which need not be one of ours."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _prefetch(builder, args[0], False)
        return context.get_dummy_value()

    return types.void(address), generate


@intrinsic
def prefetch_to_second(typingctx: Any, address: Any) -> Any:
    """Ask for a line as `prefetch` does, but into the second cache: more of these can be under way at once."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _prefetch(builder, args[0], False, 2)
        return context.get_dummy_value()

    return types.void(address), generate


def _load(builder: Any, address: Any, vector: ir.VectorType, align: int) -> Any:
    value = builder.load(builder.bitcast(address, vector.as_pointer()))
    value.align = align
    return value


def _store(builder: Any, value: Any, address: Any, vector: ir.VectorType, align: int) -> None:
    instruction = builder.store(value, builder.bitcast(address, vector.as_pointer()))
    instruction.align = align


def _splat(builder: Any, scalar: Any, vector: ir.VectorType) -> Any:
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count))


_AS_WRITTEN = ("contract",)
"""Flags of additions whose order counts. Numba gives those without any the flags of the function that they end up in,
by which LLVM may sum in another order, here one and there another."""


def _add(builder: Any, x: Any, y: Any) -> Any:
    return builder.fadd(x, y, flags=_AS_WRITTEN)


def _multiply_add(builder: Any, vector: ir.VectorType) -> Any:
    """Return a function (x, y, acc) -> x*y + acc; fused where the target has the instruction."""
    if not target().fma:
        return lambda x, y, acc: _add(builder, builder.fmul(x, y, flags=_AS_WRITTEN), acc)
    width = 32 if isinstance(vector.element, ir.FloatType) else 64
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{vector.count}f{width}"
    )
    return lambda x, y, acc: builder.call(fma, [x, y, acc])


def _load_transposed(builder: Any, row: Any, vector: ir.VectorType, align: int) -> list[Any]:
    """Return the columns of a square of elements as vectors; `row` tells where row i of it begins.

    Rows are loaded by pieces of 128 bits, a vector from several rows, since loads may go where they shall and the
    other moves within 128 bits are cheap: 16 shuffles for 8 x 8 numbers on AVX2, where whole rows took 40.
    """
    n, count = vector.count, min(vector.count, 128 // (32 if isinstance(vector.element, ir.FloatType) else 64))
    piece = ir.VectorType(vector.element, count)

    def load(i: int, column: int) -> Any:
        return _load(builder, builder.gep(row(i), [ir.Constant(_I64, column)]), piece, align)

    def join(parts: list[Any]) -> Any:
        while len(parts) > 1:
            width = 2 * parts[0].type.count
            mask = ir.Constant(ir.VectorType(_I32, width), list(range(width)))
            parts = [builder.shuffle_vector(*pair, mask) for pair in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    columns = []
    for column in range(0, n, count):
        block = [join([load(r + at, column) for at in range(0, n, count)]) for r in range(count)]
        # Interleaving vectors i and i + count/2 element by element, log2(count) times, is a transposition.
        for _ in range(count.bit_length() - 1):
            mixed = []
            for i in range(count // 2):
                for low in (0, count // 2):
                    picks = [x for at in range(0, n, count) for j in range(count // 2)
                             for x in (at + low + j, n + at + low + j)]  # fmt: skip
                    mask = ir.Constant(ir.VectorType(_I32, n), picks)
                    mixed.append(builder.shuffle_vector(block[i], block[i + count // 2], mask))
            block = mixed
        columns += block
    return columns


@intrinsic
def transpose(typingctx: Any, target: Any, target_stride: Any, source: Any, source_stride: Any, count: Any) -> Any:
    """Write target[p, i] = source[i, p] for a square of `lanes` x `lanes` elements at two addresses.

    Only the first `count` rows of the source are read, but whole vectors are still written: what stands behind them in
    a target row is overwritten, for the caller to mend.
    """
    element = target.dtype
    vector = _vector_type(element)
    align = element.bitwidth // 8
    address = types.CPointer(element)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, target_stride, source, source_stride, count = args

        def source_row(index: int) -> Any:
            number = ir.Constant(_I64, index)
            there = builder.icmp_signed("<", number, count)
            return builder.gep(
                source, [builder.select(there, builder.mul(source_stride, number), ir.Constant(_I64, 0))]
            )

        rows = [source_row(i) for i in range(vector.count)]
        for p, value in enumerate(_load_transposed(builder, rows.__getitem__, vector, align)):
            place = builder.gep(target, [builder.mul(target_stride, ir.Constant(_I64, p))])
            _store(builder, value, place, vector, align)
        return context.get_dummy_value()

    return types.void(address, types.intp, address, types.intp, types.intp), generate


@intrinsic
def copy_vector(typingctx: Any, target: Any, source: Any) -> Any:
    """Copy one vector of elements from one address to another."""
    vector, align = _vector_type(target.dtype), target.dtype.bitwidth // 8

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _store(builder, _load(builder, args[1], vector, align), args[0], vector, align)
        return context.get_dummy_value()

    return types.void(target, target), generate


@intrinsic
def write_past_caches(typingctx: Any, target: Any, source: Any) -> Any:
    """Copy one vector to an address that is a multiple of its size, on to memory and out of every cache."""
    vector, align = _vector_type(target.dtype), target.dtype.bitwidth // 8

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = _load(builder, args[1], vector, align)
        instruction = builder.store(value, builder.bitcast(args[0], vector.as_pointer()))
        instruction.align = vector.count * align
        instruction.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_I32, 1)]))
        return context.get_dummy_value()

    return types.void(target, target), generate


@intrinsic
def finish_writes(typingctx: Any) -> Any:
    """Wait until what was written past the caches is in memory: others may then be told of it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def flush_subnormals(typingctx: Any) -> Any:
    """Make this thread take numbers below the smallest normal one for 0, and return what `restore_floats` wants.

    An instruction that meets one takes some 150 cycles more on Intel's CPUs, and training makes many: Adam's first
    moment of a dead unit shrinks by a tenth each step until it is one, for good.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        before = _float_control(builder)
        if before is None:
            return ir.Constant(_I64, 0)
        _set_float_control(builder, builder.or_(before, ir.Constant(before.type, _FLUSH[_machine()])))
        return builder.zext(before, _I64) if before.type != _I64 else before

    return types.int64(), generate


@intrinsic
def restore_floats(typingctx: Any, before: Any) -> Any:
    """Undo `flush_subnormals`, which returned `before`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _machine() in _FLUSH:
            _set_float_control(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), generate


_FLUSH = {"x86": 0x8040, "arm": 1 << 24}
"""Bits of the register that controls arithmetic: FTZ and DAZ of MXCSR, FZ of FPCR."""


def _machine() -> str:
    machine = platform.machine().lower()
    return {"x86_64": "x86", "amd64": "x86", "aarch64": "arm", "arm64": "arm"}.get(machine, "")


def _float_control(builder: Any) -> Any:
    """Return the register that controls floating-point arithmetic, or None on a machine not known here."""
    if _machine() == "x86":
        place = cgutils.alloca_once(builder, _I32)
        builder.call(_control_function(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), place.type), [place])
        return builder.load(place)
    if _machine() == "arm":
        return builder.call(_control_function(builder, "llvm.aarch64.get.fpcr", _I64), [])
    return None


def _set_float_control(builder: Any, value: Any) -> None:
    if _machine() == "x86":
        place = cgutils.alloca_once(builder, _I32)
        builder.store(value if value.type == _I32 else builder.trunc(value, _I32), place)
        builder.call(_control_function(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), place.type), [place])
    else:
        builder.call(_control_function(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), _I64), [value])


def _control_function(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, list(arguments)), name)


def masked_loads() -> bool:
    """Return whether the target loads a part of a vector in one instruction (AVX and later)."""
    return target().vector_bytes >= 32


def fast_masked_stores() -> bool:
    """Return whether the target stores a part of a vector at the speed of a whole one (AVX-512)."""
    return target().vector_bytes == 64


def _masked(builder: Any, vector: ir.VectorType, align: int) -> tuple[Any, Any]:
    """Return functions (address, mask) -> value and (value, address, mask): a load and a store of a vector's part."""
    name = f"v{vector.count}f{32 if isinstance(vector.element, ir.FloatType) else 64}.p0"
    where, none = ir.Constant(_I32, align), ir.Constant(vector, [0.0] * vector.count)

    def function(result: Any, kind: str, arguments: list[Any]) -> Any:
        kinds = [argument.type for argument in arguments]
        return cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(result, kinds), f"llvm.masked.{kind}.{name}"
        )

    def load(address: Any, mask: Any) -> Any:
        arguments = [builder.bitcast(address, vector.as_pointer()), where, mask, none]
        return builder.call(function(vector, "load", arguments), arguments)

    def store(value: Any, address: Any, mask: Any) -> None:
        arguments = [value, builder.bitcast(address, vector.as_pointer()), where, mask]
        builder.call(function(ir.VoidType(), "store", arguments), arguments)

    return load, store


def _store_first(builder: Any, values: list[Any], places: list[Any], vector: ir.VectorType, count: Any) -> None:
    """Store the first `count` lanes of each vector: half of them, a quarter, ... as the bits of `count` say.

    Some CPUs take 20 cycles for a masked store (Zen 3: 18 instructions inside); branches that go the same way for all
    tiles of a product cost next to nothing.
    """
    align = (32 if isinstance(vector.element, ir.FloatType) else 64) // 8
    size = vector.count
    while size > 0:
        before = builder.block
        piece = builder.append_basic_block(f"first{size}")
        after = builder.append_basic_block(f"behind{size}")
        wanted = builder.and_(count, ir.Constant(_I64, size))
        builder.cbranch(builder.icmp_signed("!=", wanted, ir.Constant(_I64, 0)), piece, after)
        builder.position_at_end(piece)
        part = ir.VectorType(vector.element, size)
        for value, place in zip(values, places, strict=True):
            low = builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(_I32, size), list(range(size))))
            _store(builder, low, place, part, align)
        picks = ir.Constant(ir.VectorType(_I32, vector.count), [(i + size) % vector.count for i in range(vector.count)])
        shifted = [builder.shuffle_vector(value, value, picks) for value in values]
        further = [builder.gep(place, [ir.Constant(_I64, size)]) for place in places]
        builder.branch(after)
        builder.position_at_end(after)
        joined = []
        for old, new in zip(values + places, shifted + further, strict=True):
            either = builder.phi(old.type)
            either.add_incoming(old, before)
            either.add_incoming(new, piece)
            joined.append(either)
        values, places = joined[: len(values)], joined[len(values) :]
        size //= 2


def make_micro_kernel(
    rows: int,
    vectors: int,
    by_row: bool,
    *,
    narrow: bool = False,
    ahead: bool = False,
    soon: bool = False,
    half: bool = False,
) -> Any:
    """Build the register tile ``C[rows, vectors*lanes] = init + A[rows, k] B[k, vectors*lanes]``.

    The returned intrinsic is called as ``kernel(c, c_stride, init, init_stride, has_init, a, a_stride, b,
    b_stride, k)`` with pointers to elements and strides in elements:

    - ``c``, ``c_stride``: output tile and the distance of its rows;
    - ``init``, ``init_stride``: what the sum starts from where ``has_init``: C itself (to go on summing) or
      the bias (stride 0: the same row for all);
    - ``a``: element (i, p) of A is ``a[i * a_stride + p]`` when `by_row` (a row-major A), else
      ``a[i + p * a_stride]`` (packed, or a transposed row-major A);
    - ``b``: element (p, j) is ``b[p * b_stride + j]``; k >= 1;
    - ``columns``, of a `narrow` tile only: how many columns of C there are, some of the last vector's; no others are
      read or written. Those of B are not read either where the target has `masked_loads`, else they must be there;
    - ``next_b``, ``next_stride``, ``within``, where `ahead`: the panel of B that is wanted next, asked for on the way.
      It begins at ``next_b`` and has k rows ``next_stride`` apart (`within` is -1), or lies transposed: as many rows of
      k elements as a tile has columns, a power of two (`within` is one less);
    - ``soon``, ``soon_stride``, where `soon`: a tile that is written next and asked for at once.

    Where `half`, vectors have half the lanes, of which a Zen 4 multiplies twice as many at a time.

    Each element of C is one chain of multiply-adds in the order of p, whatever the tile: results do not
    depend on where tiles, blocks or threads begin.
    """

    @intrinsic
    def whole(typingctx, c, c_stride, init, init_stride, has_init, a, a_stride, b, b_stride, k):
        return build(c.dtype)

    @intrinsic
    def fetching(typingctx, c, c_stride, init, init_stride, has_init, a, a_stride, b, b_stride, k, soon, soon_stride):
        return build(c.dtype)

    @intrinsic
    def looking_ahead(
        typingctx, c, c_stride, init, init_stride, has_init, a, a_stride, b, b_stride, k, next_b, next_stride, within
    ):
        return build(c.dtype)

    @intrinsic
    def part(typingctx, c, c_stride, init, init_stride, has_init, a, a_stride, b, b_stride, k, columns):
        return build(c.dtype)

    def build(element):
        vector = _vector_type(element)
        if half:
            vector = ir.VectorType(vector.element, vector.count // 2)
        n_lanes, align = vector.count, element.bitwidth // 8
        address = types.CPointer(element)
        signature = types.void(
            address, types.intp, address, types.intp, types.boolean,
            address, types.intp, address, types.intp, types.intp, *([types.intp] if narrow else []),
            *([address, types.intp] if soon else []), *([address, types.intp, types.intp] if ahead else []),
        )  # fmt: skip

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            c, c_stride, init, init_stride, has_init, a, a_stride, b, b_stride, k = args[:10]
            multiply_add = _multiply_add(builder, vector)
            if narrow:
                load_part, store_part = _masked(builder, vector, align)
                indices = ir.VectorType(_I64, n_lanes)
                last = ir.Constant(indices, [(vectors - 1) * n_lanes + lane for lane in range(n_lanes)])
                mask = builder.icmp_signed("<", last, _splat(builder, args[10], indices))

            def load(base: Any, j: int, masked: bool) -> Any:
                part = masked and j == vectors - 1
                return load_part(base, mask) if part else _load(builder, base, vector, align)

            def at(base: Any, *offsets: Any) -> Any:
                total = offsets[0]
                for offset in offsets[1:]:
                    total = builder.add(total, offset)
                return builder.gep(base, [total])

            def constant(value: int) -> ir.Constant:
                return ir.Constant(_I64, value)

            tile = [(i, j) for i in range(rows) for j in range(vectors)]
            zero = ir.Constant(vector, [0.0] * n_lanes)

            before = builder.block
            load_init = builder.append_basic_block("init")
            loop = builder.append_basic_block("loop")
            after = builder.append_basic_block("after")
            row_starts = [at(a, builder.mul(a_stride, constant(i))) for i in range(rows)] if by_row else []
            per_line = max(1, 64 // target().vector_bytes)  # vectors in a cache line
            for i, j in tile if soon else []:
                if j % per_line == 0:
                    _prefetch(builder, at(args[10], builder.mul(args[11], constant(i)), constant(j * n_lanes)), True)
            builder.cbranch(cgutils.is_true(builder, has_init), load_init, loop)
            builder.position_at_end(load_init)
            starts = [
                load(at(init, builder.mul(init_stride, constant(i)), constant(j * n_lanes)), j, narrow) for i, j in tile
            ]
            builder.branch(loop)

            builder.position_at_end(loop)
            p = builder.phi(_I64)
            a_now = builder.phi(_I64 if by_row else a.type)
            b_now = builder.phi(b.type)
            sums = [builder.phi(vector) for _ in tile]
            for source, start in ((before, None), (load_init, starts)):
                p.add_incoming(constant(0), source)
                a_now.add_incoming(constant(0) if by_row else a, source)
                b_now.add_incoming(b, source)
                for index, value in enumerate(sums):
                    value.add_incoming(zero if start is None else start[index], source)
            b_vectors = [load(at(b_now, constant(j * n_lanes)), j, narrow and masked_loads()) for j in range(vectors)]
            if ahead:
                next_b, next_stride, within = args[10:]
                row = builder.mul(builder.and_(p, within), next_stride)
                line = builder.add(row, builder.and_(p, builder.not_(within)))
                for j in range(vectors):
                    _prefetch(builder, at(next_b, line, constant(j * n_lanes)), False, 2)
            results = []
            for i in range(rows):
                source = at(row_starts[i], a_now) if by_row else at(a_now, constant(i))
                a_vector = _splat(builder, builder.load(source), vector)
                results += [multiply_add(a_vector, b_vectors[j], sums[i * vectors + j]) for j in range(vectors)]
            p_next = builder.add(p, constant(1))
            p.add_incoming(p_next, loop)
            a_now.add_incoming(builder.add(a_now, constant(1)) if by_row else at(a_now, a_stride), loop)
            b_now.add_incoming(at(b_now, b_stride), loop)
            for value, result in zip(sums, results, strict=True):
                value.add_incoming(result, loop)
            builder.cbranch(builder.icmp_signed("<", p_next, k), loop, after)

            builder.position_at_end(after)
            places = [at(c, builder.mul(c_stride, constant(i)), constant(j * n_lanes)) for i, j in tile]
            parts = [j == vectors - 1 for _, j in tile] if narrow else [False] * len(tile)
            for place, result, part in zip(places, results, parts, strict=True):
                if part and fast_masked_stores():
                    store_part(result, place, mask)
                elif not part:
                    _store(builder, result, place, vector, align)
            if narrow and not fast_masked_stores():
                last_results, last_places = results[vectors - 1 :: vectors], places[vectors - 1 :: vectors]
                rest = builder.sub(args[10], constant((vectors - 1) * n_lanes))
                _store_first(builder, last_results, last_places, vector, rest)
            return context.get_dummy_value()

        return signature, generate

    return part if narrow else looking_ahead if ahead else fetching if soon else whole


def make_row_kernel(groups: int) -> Any:
    """Build ``C[groups * lanes] = start + A[k] B'[k, groups * lanes]``, one row, for B' the transpose of a row-major B.

    The returned intrinsic is called as ``kernel(c, a, b, b_stride, k, start)`` as in `make_micro_kernel`, with element
    (p, j) of B' at ``b[p + j * b_stride]`` and one number `start` that all sums begin with. Squares of B are transposed
    in registers and never packed. Each element of C is one chain in the order of p: the bits are those of the other
    kernels.
    """

    @intrinsic
    def kernel(typingctx, c, a, b, b_stride, k, start):
        element = c.dtype
        vector = _vector_type(element)
        lanes, align = vector.count, element.bitwidth // 8
        depth = lanes * max(1, 128 // target().vector_bytes)  # two cache lines of each row of B at a time

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            c, a, b, b_stride, k, start = args
            multiply_add = _multiply_add(builder, vector)

            def constant(value: int) -> ir.Constant:
                return ir.Constant(_I64, value)

            def b_at(index: int, p: Any) -> Any:
                return builder.gep(b, [builder.add(builder.mul(b_stride, constant(index)), p)])

            def add(sums: list[Any], p: Any, g: int, column: Any) -> None:
                factor = _splat(builder, builder.load(builder.gep(a, [p])), vector)
                sums[g] = multiply_add(factor, column, sums[g])

            def loop(name: str, start: Any, stop: Any, step: int, before: list[Any], body: Any) -> list[Any]:
                entry = builder.block
                head, inside, after = (builder.append_basic_block(name) for _ in range(3))
                builder.branch(head)
                builder.position_at_end(head)
                p = builder.phi(_I64)
                sums = [builder.phi(vector) for _ in range(groups)]
                builder.cbranch(builder.icmp_signed("<", p, stop), inside, after)
                builder.position_at_end(inside)
                now = list(sums)
                body(now, p)
                for phi, first, last in zip([p, *sums], [start, *before], [builder.add(p, constant(step)), *now],
                                            strict=True):  # fmt: skip
                    phi.add_incoming(first, entry)
                    phi.add_incoming(last, inside)
                builder.branch(head)
                builder.position_at_end(after)
                return sums

            def squares(sums: list[Any], p: Any) -> None:
                for g in range(groups):
                    for first in range(0, depth, lanes):
                        rows_at = [b_at(g * lanes + j, builder.add(p, constant(first))) for j in range(lanes)]
                        for q, column in enumerate(_load_transposed(builder, rows_at.__getitem__, vector, align)):
                            add(sums, builder.add(p, constant(first + q)), g, column)

            def single(sums: list[Any], p: Any) -> None:
                for g in range(groups):
                    column = ir.Constant(vector, ir.Undefined)
                    for j in range(lanes):
                        number = builder.load(b_at(g * lanes + j, p))
                        column = builder.insert_element(column, number, ir.Constant(_I32, j))
                    add(sums, p, g, column)

            before = [_splat(builder, start, vector)] * groups
            whole = builder.and_(k, constant(-depth))
            sums = loop("squares", constant(0), whole, depth, before, squares)
            sums = loop("singles", whole, k, 1, sums, single)
            for g, result in enumerate(sums):
                _store(builder, result, builder.gep(c, [constant(g * lanes)]), vector, align)
            return context.get_dummy_value()

        address = types.CPointer(element)
        return types.void(address, address, address, types.intp, types.intp, element), generate

    return kernel


SUM_CHAINS, SUM_VECTORS = 4, 4 if TILE_ROWS > 6 else 2
"""Rows that are added up beside each other, since a sum takes 3 to 4 cycles before the next can be added to it; and
vectors of each, by the registers that there are. With two on a Zen 4, 512 x 256 float64 took twice as long."""


def make_sum_kernel(vectors: int, narrow: bool) -> Any:
    """Build the sums of columns ``out[j] = sum_p d[p * stride + j]`` for ``vectors * lanes`` columns.

    The returned intrinsic is called as ``kernel(out, d, stride, rows, goes_on)`` with addresses. Rows go to SUM_CHAINS
    chains in turn, what is left to the first, and the chains are added in pairs: the same for each column, wherever it
    stands. Where it ``goes_on``, the sum is added to what is there.

    A `narrow` one, of one vector, is called as ``kernel(out, d, stride, rows, goes_on, columns, rest, n)``. It reads
    the first ``columns`` of each vector and ``rest`` numbers more behind the last one. Where ``n < columns``, a power
    of two, the numbers of a vector are rows of n: these are added up, too.
    """

    @intrinsic
    def whole(typingctx, out, d, stride, rows, goes_on):
        return build(out.dtype)

    @intrinsic
    def part(typingctx, out, d, stride, rows, goes_on, columns, rest, n):
        return build(out.dtype)

    def build(element):
        vector, align = _vector_type(element), element.bitwidth // 8
        lanes, address = vector.count, types.CPointer(element)
        more = [types.intp] * 3 if narrow else []
        signature = types.void(address, address, types.intp, types.intp, types.boolean, *more)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            out, d, stride, rows, goes_on = args[:5]
            load_part, store_part = _masked(builder, vector, align)

            def constant(value: int) -> ir.Constant:
                return ir.Constant(_I64, value)

            def first(count: Any) -> Any:
                indices = ir.VectorType(_I64, lanes)
                return builder.icmp_signed(
                    "<", ir.Constant(indices, list(range(lanes))), _splat(builder, count, indices)
                )

            def load(row: Any, v: int) -> Any:
                place = builder.gep(d, [builder.add(builder.mul(row, stride), constant(v * lanes))])
                return load_part(place, mask) if narrow else _load(builder, place, vector, align)

            def add(chain: int, v: int, value: Any) -> None:
                builder.store(_add(builder, builder.load(sums[chain][v]), value), sums[chain][v])

            columns, rest, n = args[5:] if narrow else (None, None, None)
            mask = first(columns) if narrow else None
            zero = ir.Constant(vector, [0.0] * lanes)
            sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(vectors)] for _ in range(SUM_CHAINS)]
            groups = builder.udiv(rows, constant(SUM_CHAINS))
            with cgutils.for_range(builder, groups) as loop:
                for chain in range(SUM_CHAINS):
                    row = builder.add(builder.mul(loop.index, constant(SUM_CHAINS)), constant(chain))
                    for v in range(vectors):
                        add(chain, v, load(row, v))
            with cgutils.for_range(builder, builder.urem(rows, constant(SUM_CHAINS))) as loop:
                row = builder.add(builder.mul(groups, constant(SUM_CHAINS)), loop.index)
                for v in range(vectors):
                    add(0, v, load(row, v))
            if narrow:
                add(1, 0, load_part(builder.gep(d, [builder.mul(rows, stride)]), first(rest)))
            for v in range(vectors):
                chains = [builder.load(sums[chain][v]) for chain in range(SUM_CHAINS)]
                while len(chains) > 1:
                    chains = [_add(builder, *pair) for pair in zip(chains[::2], chains[1::2], strict=True)]
                total, place = chains[0], builder.gep(out, [constant(v * lanes)])
                if not narrow:
                    more = _add(builder, _load(builder, place, vector, align), total)
                    _store(builder, builder.select(goes_on, more, total), place, vector, align)
                    continue
                half = lanes // 2
                while half > 0:
                    picks = ir.Constant(ir.VectorType(_I32, lanes), [(i + half) % lanes for i in range(lanes)])
                    folded = _add(builder, total, builder.shuffle_vector(total, total, picks))
                    wanted = builder.and_(
                        builder.icmp_signed("<", n, columns), builder.icmp_signed("<=", n, constant(half))
                    )
                    total = builder.select(wanted, folded, total)
                    half //= 2
                more = _add(builder, load_part(place, first(n)), total)
                store_part(builder.select(goes_on, more, total), place, first(n))
            return context.get_dummy_value()

        return signature, generate

    return part if narrow else whole
