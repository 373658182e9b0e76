"""exp, expm1, log1p and the normal tail as branch-free scalar formulas that LLVM turns into vectors.

Numba ships no vector mathematics library, so ``math.exp`` in a compiled loop is one scalar call an element
(about 9 ns); these forms cost 0.2 to 0.4 ns. Range reduction by ln 2 in two parts (Cody and Waite, *Software
Manual for the Elementary Functions*, 1980, chapter 6); polynomials interpolate at Chebyshev nodes, computed
with 60 digits. Every function takes and returns one float32 or float64 and keeps NaN.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from fastnn.kernels._jit import EXACT, formula


def _float_type(value: Any) -> types.Float | None:
    return value if isinstance(value, types.Float) else None


@intrinsic
def like(typingctx: Any, value: Any, x: Any) -> Any:
    """Return the number `value` in the type of `x`, so that a float32 formula never widens."""
    if _float_type(x) is None:
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.cast(builder, args[0], signature.args[0], signature.return_type)

    return x(value, x), generate


@intrinsic
def choose(typingctx: Any, condition: Any, x: Any, y: Any) -> Any:
    """Return x where `condition` holds, else y; both are worked out, so that no branch stops a loop's vectors."""
    if not isinstance(condition, types.Boolean) or _float_type(x) is None or x != y:
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        flag = builder.trunc(args[0], ir.IntType(1)) if args[0].type.width != 1 else args[0]
        return builder.select(flag, args[1], args[2])

    return x(condition, x, y), generate


def _llvm_function(name: str, *arguments: Any) -> Any:
    """Return what an intrinsic's typing returns for the LLVM function `name` on floats of one type."""
    element = arguments[0]
    if any(_float_type(argument) != element for argument in arguments):
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        llvm_type = context.get_value_type(element)
        callee = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(llvm_type, [llvm_type] * len(arguments)),
            f"llvm.{name}.f{element.bitwidth}",
        )
        return builder.call(callee, args)

    return element(*arguments), generate


@intrinsic
def fma(typingctx: Any, x: Any, y: Any, z: Any) -> Any:
    """Return x*y + z, rounded once."""
    return _llvm_function("fma", x, y, z)


@intrinsic
def absolute(typingctx: Any, x: Any) -> Any:
    """Return |x|."""
    return _llvm_function("fabs", x)


@intrinsic
def largest(typingctx: Any, x: Any, y: Any) -> Any:
    """Return the larger of x and y; NaN where one of them is.

    Where a comparison would choose the value that stands there already, LLVM stores the changed elements alone, with a
    mask, at 20 cycles each on some CPUs: ReLU took ten times as long.
    """
    return _llvm_function("maximum", x, y)


@intrinsic
def smallest(typingctx: Any, x: Any, y: Any) -> Any:
    """Return the smaller of x and y; NaN where one of them is."""
    return _llvm_function("minimum", x, y)


@intrinsic
def copysign(typingctx: Any, magnitude: Any, sign: Any) -> Any:
    """Return `magnitude` with the sign of `sign`."""
    return _llvm_function("copysign", magnitude, sign)


@intrinsic
def _power_of_two(typingctx: Any, shifted: Any) -> Any:
    """Return 2**n, where `shifted` is n + 1.5 * 2**mantissa_bits: n stands in the low bits."""
    if _float_type(shifted) is None:
        return None
    bits = shifted.bitwidth
    mantissa, bias = (23, 127) if bits == 32 else (52, 1023)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        integer = ir.IntType(bits)
        n = builder.bitcast(args[0], integer)
        exponent = builder.add(builder.shl(n, ir.Constant(integer, mantissa)), ir.Constant(integer, bias << mantissa))
        return builder.bitcast(exponent, args[0].type)

    return shifted(shifted), generate


class _Constants:
    """The numbers of one float type; below `lowest` 1000 e^x is 0, above `highest` e^x is infinite."""

    def __init__(self, bits: int) -> None:
        kind = np.float32 if bits == 32 else np.float64
        self.magic = kind(1.5 * 2.0 ** (23 if bits == 32 else 52))
        self.log2e = kind(math.log2(math.e))
        self.half, self.one, self.two = kind(0.5), kind(1.0), kind(2.0)
        if bits == 32:
            self.lowest, self.highest, self.flat = kind(-125.0), kind(89.0), kind(-87.0)
            self.ln2_high, self.ln2_low = kind(0.693145751953125), kind(1.4286068203094172e-06)
            exp_terms = [
                0.5,
                0.16666576666119928,
                0.04166655421298415,
                0.0083632328836826182,
                0.0013926250831497612,
            ]
            log_terms = [
                1.0000000038408794, 0.33333160820688887, 0.20012297615351874, 0.13982578872598634, 0.1407888918155454,
            ]  # fmt: skip
        else:
            self.lowest, self.highest, self.flat = kind(-780.0), kind(710.0), kind(-700.0)
            self.ln2_high, self.ln2_low = kind(0.6931471803691238), kind(1.9082149292705877e-10)
            exp_terms = [
                0.5, 0.16666666666666667, 0.041666666666623821, 0.0083333333333300382, 0.0013888888917367081,
                0.00019841269863171556, 2.4801521057868205e-5, 2.7557268276905696e-6, 2.7620201591031549e-7,
                2.5100472505694996e-8,
            ]  # fmt: skip
            log_terms = [
                1.0, 0.33333333333333342, 0.19999999999996433, 0.14285714286311464, 0.11111111059551837,
                0.090909117112476262, 0.076922235302299838, 0.066684384078719177, 0.058576373340552126,
                0.05488308318973747, 0.03490195249166216, 0.082441429656947843,
            ]  # fmt: skip
        self.exp_terms = tuple(kind(c) for c in exp_terms)
        self.log_terms = tuple(kind(c) for c in log_terms)


def _polynomial(terms: tuple[Any, ...]) -> Any:
    """Build Horner's scheme with fused multiply-adds for the coefficients, lowest power first."""
    namespace: dict[str, Any] = {"fma": fma} | {f"c{i}": c for i, c in enumerate(terms)}
    body = f"c{len(terms) - 1}"
    for i in reversed(range(len(terms) - 1)):
        body = f"fma({body}, x, c{i})"
    exec(f"def polynomial(x):\n    return {body}", namespace)
    return formula(namespace["polynomial"])


def _build(bits: int) -> tuple[Any, Any, Any]:
    """Build (factor * exp, expm1 for x <= 0, log1p for 0 <= x <= 1) of one float type."""
    c = _Constants(bits)
    magic, log2e, half, one, two = c.magic, c.log2e, c.half, c.one, c.two
    ln2_high, ln2_low = c.ln2_high, c.ln2_low
    lowest, highest, flat = c.lowest, c.highest, c.flat
    exp_tail, log_series = _polynomial(c.exp_terms), _polynomial(c.log_terms)

    @formula
    def scaled_exp(factor, x):
        x = choose(x < lowest, lowest, x)
        x = choose(x > highest, highest, x)
        n = fma(x, log2e, magic) - magic
        r = fma(n, -ln2_low, fma(n, -ln2_high, x))
        s = fma(r * r, exp_tail(r), r)
        shifted = fma(n, half, magic)
        return fma(factor, s, factor) * _power_of_two(shifted) * _power_of_two(n - (shifted - magic) + magic)

    @formula
    def expm1_negative(x):
        x = choose(x < flat, flat, x)
        shifted = fma(x, log2e, magic)
        n = shifted - magic
        r = fma(n, -ln2_low, fma(n, -ln2_high, x))
        p = fma(r * r, exp_tail(r), r)
        scale = _power_of_two(shifted)
        return fma(p, scale, scale - one)

    @formula
    def log1p_unit(x):
        s = x / (two + x)
        return two * s * log_series(s * s)

    return scaled_exp, expm1_negative, log1p_unit


_F32, _F64 = _build(32), _build(64)


def scaled_exp(factor, x):
    """Return factor * e**x, at most 2 ulp, the factor multiplied in before the power of two.

    So the product keeps its digits where e**x alone would be subnormal. Infinity above the range, 0 below it.
    """
    raise NotImplementedError("callable in compiled code only")


def expm1_negative(x):
    """Return e**x - 1 for x <= 0, exact to 2 ulp near 0 as well."""
    raise NotImplementedError("callable in compiled code only")


def log1p_unit(x):
    """Return log(1 + x) for 0 <= x <= 1 as 2 atanh(x / (2 + x)): at most 2 ulp."""
    raise NotImplementedError("callable in compiled code only")


def scaled_normal_tail(factor, x):
    """Return factor times the upper tail of the standard normal distribution, 1/2 erfc(x / sqrt 2), for x >= 0.

    float32: exp(-x^2/2) t P(t) with t = 1 / (1 + 0.30029296875 x), the rounding errors of the square and of t
    carried along; at most 4 ulp. float64: the C library's erfc.
    """
    raise NotImplementedError("callable in compiled code only")


def _overload_by_type(stub: Any, single: Any, double: Any) -> None:
    options: Any = {"forceinline": True, "fastmath": EXACT, "error_model": "numpy"}

    def choose_one(x):
        chosen = single if x is types.float32 else double
        return (lambda x: chosen(x)) if _float_type(x) is not None else None

    def choose_two(factor, x):
        chosen = single if x is types.float32 else double
        return (lambda factor, x: chosen(factor, x)) if _float_type(x) is not None else None

    overload(stub, jit_options=options)(choose_two if stub.__code__.co_argcount == 2 else choose_one)


_TAIL_TERMS = (
    0.119804381948, 0.119672733539, 0.110451887391, 0.0778174851354, 0.0977406851667,
    -0.0824579781792, 0.195039553475, -0.231081544571, 0.113973717926, -0.0209609237676,
)  # fmt: skip
_tail_series = _polynomial(tuple(np.float32(term) for term in _TAIL_TERMS))


@formula
def _normal_tail_single(factor, x):
    x = choose(x > like(15.0, x), like(15.0, x), x)
    square = x * x
    error = fma(x, x, -square)
    one = like(1.0, x)
    d = fma(like(0.30029296875, x), x, one)
    d_error = fma(like(0.30029296875, x), x, one - d)
    t = one / d
    t_error = fma(-d, t, one) - d_error * t
    series = factor * (t * _tail_series(t))
    correction = fma(t_error, fma(like(1.6, x), t, one), like(-0.5, x) * error)
    return scaled_exp(fma(series, correction, series), like(-0.5, x) * square)


@formula
def _normal_tail_double(factor, x):
    return factor * (0.5 * math.erfc(x * 0.7071067811865476))


_overload_by_type(scaled_exp, _F32[0], _F64[0])
_overload_by_type(expm1_negative, _F32[1], _F64[1])
_overload_by_type(log1p_unit, _F32[2], _F64[2])
_overload_by_type(scaled_normal_tail, _normal_tail_single, _normal_tail_double)


@formula
def exp(x):
    """Return e**x: at most 1.5 ulp; infinity above the range, 0 below it."""
    return scaled_exp(like(1.0, x), x)
