"""exp, expm1, log1p and the normal tail as branch-free scalar formulas that LLVM turns into vectors.

Numba ships no vector mathematics library, so ``math.exp`` in a compiled loop is one scalar call an element
(about 9 ns); these forms cost 0.3 to 0.7 ns in float32. Both the number of instructions and the longest chain of
results count: a few passes of a loop run at once, no more. So the polynomials are short, and long ones split in two.

Range reduction by ln 2 in two parts (Cody and Waite, *Software Manual for the Elementary Functions*, 1980,
chapter 6); polynomials and fractions are minimax fits of the relative error (Remez, 50 digits), refitted after the
rounding to float32. Every function takes and returns one float32 or float64 and keeps NaN.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastnn.kernels._jit import formula


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
def by_type(typingctx: Any, x: Any, single: Any, double: Any) -> Any:
    """Return the number `single` where x is float32, `double` where it is float64, in the type of x."""
    if _float_type(x) is None:
        return None
    position = 1 if x.bitwidth == 32 else 2

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.cast(builder, args[position], signature.args[position], signature.return_type)

    return x(x, single, double), generate


@intrinsic
def _power_of_two(typingctx: Any, shifted: Any) -> Any:
    """Return 2**n, where `shifted` is n + exponent bias + 1.5 * 2**mantissa_bits: its low bits hold n + bias."""
    if _float_type(shifted) is None:
        return None
    integer, mantissa = ir.IntType(shifted.bitwidth), 23 if shifted.bitwidth == 32 else 52

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        exponent = builder.shl(builder.bitcast(args[0], integer), ir.Constant(integer, mantissa))
        return builder.bitcast(exponent, args[0].type)

    return shifted(shifted), generate


def _polynomial(single: tuple[float, ...], double: tuple[float, ...]) -> Any:
    """Build a polynomial with these coefficients, lowest power first, the first tuple for float32.

    Up to five by Horner's scheme; more as pairs c + c' x, summed by Horner's scheme in x^2: half the waiting for one
    multiplication more.
    """

    @intrinsic
    def polynomial(typingctx: Any, x: Any) -> Any:
        if _float_type(x) is None:
            return None

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = args[0].type
            name, function = f"llvm.fma.f{x.bitwidth}", ir.FunctionType(kind, [kind] * 3)
            fused = cgutils.get_or_insert_function(builder.module, function, name)
            terms = [ir.Constant(kind, term) for term in (single if x.bitwidth == 32 else double)]
            if len(terms) <= 5:
                low, high, power = terms, [], args[0]
            else:
                low, high, power = terms[::2], terms[1::2], builder.fmul(args[0], args[0])
            pairs = [builder.call(fused, [c, args[0], b]) for b, c in zip(low, high, strict=False)] + low[len(high) :]
            total = pairs[-1]
            for pair in pairs[-2::-1]:
                total = builder.call(fused, [total, power, pair])
            return total

        return x(x), generate

    polynomial.coefficients = (single, double)  # type: ignore[attr-defined]
    return polynomial


SCALE = 2.0**96
"""`scaled_exp` and `scaled_density` are so many times too large, and never subnormal: the caller rounds once."""

_LOG2E = math.log2(math.e)
_HIGH_32, _LOW_32 = 0.693145751953125, 1.4286068203094172e-06
_HIGH_64, _LOW_64 = 0.6931471803691238, 1.9082149292705877e-10
_SHIFT_32, _SHIFT_64 = 1.5 * 2.0**23 + 127, 1.5 * 2.0**52 + 1023
_SCALED_32, _SCALED_64 = _SHIFT_32 + 96, _SHIFT_64 + 96

_EXP_32 = (0.4999999403953552, 0.16666516661643982, 0.04166824743151665, 0.008369086310267448, 0.0013822515029460192)
_EXP_64 = (
    0.5, 0.16666666666666667, 0.041666666666623821, 0.0083333333333300382, 0.0013888888917367081,
    0.00019841269863171556, 2.4801521057868205e-5, 2.7557268276905696e-6, 2.7620201591031549e-7,
    2.5100472505694996e-8,
)  # fmt: skip
# (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2, and (e^(-r/2) - 1 + r/2) / r^2 for |r| <= ln 2.
_exp_series = _polynomial(_EXP_32, _EXP_64)
_density_series = _polynomial(
    tuple(c / 4 * (-0.5) ** i for i, c in enumerate(_EXP_32)), tuple(c / 4 * (-0.5) ** i for i, c in enumerate(_EXP_64))
)
# (log(1 + e) - e) / e^2 for 0 <= e <= 1
_log_series = _polynomial(
    (
        -0.49999648332595825, 0.3332132399082184, -0.24857166409492493, 0.19153662025928497, -0.13753816485404968,
        0.07920466363430023, -0.030065855011343956, 0.005364836193621159,
    ),
    (
        -0.499999999999999, 0.3333333333331394, -0.2499999999863164, 0.19999999950429492, -0.16666665578611914,
        0.1428569837497835, -0.12499835214127458, 0.11109850039051163, -0.09992646406993767, 0.09057472091164225,
        -0.08212635585216027, 0.07341403122689255, -0.0631091858354404, 0.05039036515360655, -0.035877013319348214,
        0.02180811886813914, -0.010807864019439528, 0.004139807927067613, -0.001139636028896307,
        0.00019944523093279508, -1.6598697133558172e-05,
    ),
)  # fmt: skip
# N and D of `normal_tail_ratio`; a highest power without a factor costs an addition instead of a multiply-add
_tail_top = _polynomial(
    (
        83.66282653808594, 55.61339569091797, 16.400415420532227, 2.1567914485931396,
    ),
    (
        1639600.1426912418, 2438687.4757480696, 1782064.160177448, 825012.9339218015, 264583.68153442256,
        60787.944820875935, 10013.999706790393, 1145.8482668997126, 83.40308955288852, 3.0013067067415755,
    ),
)  # fmt: skip
_tail_bottom = _polynomial(
    (
        49.08949661254883, 58.68168258666992, 30.62041664123535, 8.055937767028809, 1.0,
    ),
    (
        593718.1134893994, 1258881.5706258672, 1252775.0849064277, 770559.9926690403, 324947.6956697564,
        98435.68952625456, 21779.139252126683, 3494.3299338993816, 392.153086311217, 28.12211406317192, 1.0,
    ),
)  # fmt: skip


@formula
def lowest_exponent(x):
    """Return x, or -112 (float64: -760) where x is lower: e^x, and x e^x, are then less than half a subnormal step."""
    lowest = by_type(x, -112.0, -760.0)
    return choose(x < lowest, lowest, x)


@formula
def scaled_exp(factor, x, rest):
    """Return SCALE * factor * e^(x + rest), at most 1 ulp, for x from `lowest_exponent` to 0 and a tiny `rest`."""
    shift = by_type(x, _SCALED_32, _SCALED_64)
    shifted = fma(x, like(_LOG2E, x), shift)
    n = shifted - shift
    r = fma(n, by_type(x, -_HIGH_32, -_HIGH_64), x) + fma(n, by_type(x, -_LOW_32, -_LOW_64), rest)
    s = fma(r * r, _exp_series(r), r)
    return fma(factor, s, factor) * _power_of_two(shifted)


@formula
def quotient(x, y):
    """Return x / y rounded once, where a fast-math loop would multiply by 1 / y: x / x is 1."""
    return x / y


@formula
def quotient_by_inverse(x, y, inverse):
    """Return x / y for a `quotient` 1 / y, rounded once in nearly all cases (Markstein 1990); x / x is 1.

    Three multiply-adds, a third of a vector's division. What falls short of x is exact as long as it is not subnormal.
    """
    estimate = x * inverse
    return fma(fma(-estimate, y, x), inverse, estimate)


@formula
def nearest_power(x):
    """Return the integer N for which 2^N is next to e^x, |x| <= 2^17."""
    shift = by_type(x, _SHIFT_32, _SHIFT_64)
    return fma(x, like(_LOG2E, x), shift) - shift


@formula
def exponent_rest(x, power):
    """Return x less `power` times the high part of ln 2, exactly."""
    return fma(power, by_type(x, -_HIGH_32, -_HIGH_64), x)


@formula
def scaled_exp_difference(z, top, power, rest):
    """Return SCALE * e^(z - top), at most 1 ulp, for z from `lowest_exponent` above `top` to `top`, |top| <= 2^17.

    `power` is `nearest_power(top)` and `rest` is `exponent_rest(top, power)`. A rounded z - top would cost
    |z - top| ulp; here it only chooses the power of two, and z and top lose the multiples of ln 2 before they are
    subtracted. SCALE where z = top.
    """
    shift = by_type(z, _SCALED_32, _SCALED_64)
    shifted = fma(z - top, like(_LOG2E, z), shift)
    n = shifted - shift
    r = exponent_rest(z, n + power) - rest
    r = fma(n, by_type(z, -_LOW_32, -_LOW_64), r)
    scale = _power_of_two(shifted)
    return fma(scale, fma(r * r, _exp_series(r), r), scale)


@formula
def scaled_density(factor, x):
    """Return SCALE * factor * e^(-x^2 / 2), at most 1 ulp, for x from 0 to 15 (float64: 38.7).

    As `scaled_exp`, with every constant of it doubled, so that the square need not be halved. The square is rounded
    but for the choice of n: the multiple of ln 2 is taken from it first.
    """
    shift = by_type(x, _SCALED_32, _SCALED_64)
    shifted = fma(x * like(-0.5 * _LOG2E, x), x, shift)
    n = shifted - shift
    r = fma(x, x, n * by_type(x, 2 * _HIGH_32, 2 * _HIGH_64))
    r = fma(n, by_type(x, 2 * _LOW_32, 2 * _LOW_64), r)
    s = fma(r, _density_series(r), like(-0.5, x)) * r
    return fma(factor, s, factor) * _power_of_two(shifted)


@formula
def normal_tail_ratio(factor, x):
    """Return factor * R(x), R(x) = e^(x^2/2) erfc(x / sqrt 2) / 2 for x from 0 to 15 (float64: 38.8).

    R is the upper tail of the standard normal distribution over e^(-x^2/2) (Mills' ratio over sqrt(2 pi)), as
    (1 + N(x) / D(x)) / (p + q x): a minimax fraction of degrees 4 and 5 (float64: 10 and 11) with one real pole split
    off, so that the rounding errors of N and D count little where x is large. Fit: 0.28 * 2^-24, 0.07 * 2^-53.
    """
    p, q = by_type(x, 5.408583641052246, 7.5231602521101655), by_type(x, 2.5065910816192627, 2.5066282746304154)
    share = factor / fma(q, x, p)
    return fma(share, _tail_top(x) / _tail_bottom(x), share)


@formula
def expm1(x):
    """Return e^x - 1 for x from -40 to 40: at most 1 ulp, near 0 as well; more by n / 31 ulp where x is n ln 2.

    ln 2 is one number here, by luck so near a float that n of them are off by no more than that (float64: n / 5 ulp).
    Who divides by e^x + 1 sees nothing of it.
    """
    shift = by_type(x, _SHIFT_32, _SHIFT_64)
    shifted = fma(x, like(_LOG2E, x), shift)
    n = shifted - shift
    r = fma(n, like(-math.log(2.0), x), x)
    scale = _power_of_two(shifted)
    return fma(scale, fma(r * r, _exp_series(r), r), scale - like(1.0, x))


@formula
def log1p_exp(x):
    """Return log(1 + e^x) for x <= 0: at most 2.5 ulp."""
    e = scaled_exp(like(1.0 / SCALE, x), lowest_exponent(x), like(0.0, x))
    return fma(e * e, _log_series(e), e)
