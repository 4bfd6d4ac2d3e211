"""Complex numbers of 200 bits whose every operation is short: what processors/grading_algebra.py evaluates with.

mpmath's low-level functions are pure (no shared precision to set) and take any number; here each result is held between
2^-LIMIT and 2^LIMIT, so that no tower of powers can make the next step slow or large.
"""

from collections.abc import Callable, Mapping
from math import comb, factorial
from typing import Any, Final

from mpmath import libmp  # type: ignore[import-untyped] # it comes with sympy and has no types

Value = tuple[Any, Any]
"""(real, imaginary) as mpmath's raw floats."""

BITS: Final = 200
LIMIT: Final = 4096
LARGEST_FACTORIAL: Final = 200
ZERO: Final[Value] = libmp.mpc_zero
ONE: Final[Value] = libmp.mpc_one


class Undefined(ArithmeticError):
    """There is no value: a division by zero, a logarithm of zero, or a magnitude beyond the limit."""


def checked(value: Value) -> Value:
    """The value.

    Raises:
        Undefined: where it is infinite, not a number, or beyond the limit.
    """
    for _, man, exponent, bits in value:
        if (not man and exponent) or (man and abs(exponent + bits) > LIMIT):
            raise Undefined
    return value


def rational(top: int, bottom: int = 1) -> Value:
    """Top / bottom."""
    return checked((libmp.from_rational(top, bottom, BITS, "n"), libmp.fzero))


def pi() -> Value:
    """The constant pi."""
    return (libmp.mpf_pi(BITS), libmp.fzero)


def e() -> Value:
    """The constant e."""
    return (libmp.mpf_e(BITS), libmp.fzero)


def i() -> Value:
    """The imaginary unit."""
    return (libmp.fzero, libmp.fone)


def add(one: Value, other: Value) -> Value:
    """One + other."""
    return checked(libmp.mpc_add(one, other, BITS, "n"))


def sub(one: Value, other: Value) -> Value:
    """One - other."""
    return checked(libmp.mpc_sub(one, other, BITS, "n"))


def neg(one: Value) -> Value:
    """-one."""
    return libmp.mpc_neg(one)  # type: ignore[no-any-return]


def mul(one: Value, other: Value) -> Value:
    """One * other."""
    return checked(libmp.mpc_mul(one, other, BITS, "n"))


def div(one: Value, other: Value) -> Value:
    """One / other."""
    if is_zero(other):
        raise Undefined
    return checked(libmp.mpc_div(one, other, BITS, "n"))


def power(base: Value, exponent: Value) -> Value:
    """Base ^ exponent, the principal value; 0^0 has none."""
    if is_zero(base):
        if libmp.mpf_gt(exponent[0], libmp.fzero) and exponent[1] == libmp.fzero:
            return ZERO
        raise Undefined
    whole = integer(exponent)
    if whole is not None and abs(whole) <= LIMIT:
        return checked(libmp.mpc_pow_int(base, whole, BITS, "n"))
    size = mul(exponent, function("ln", base))  # the exponent of e: bounds the result before it is made
    if libmp.mpf_gt(libmp.mpf_abs(size[0]), libmp.from_int(LIMIT)):
        raise Undefined
    return function("exp", size)


def root(value: Value, degree: int) -> Value:
    """The root: the real one where there is one (the third of -8 is -2), else the principal one."""
    if degree < 1:
        raise Undefined
    if is_zero(value):
        return ZERO
    if degree == 2:
        return checked(libmp.mpc_sqrt(value, BITS, "n"))
    if value[1] == libmp.fzero and value[0][0] and degree % 2:
        return neg(root(neg(value), degree))
    return power(value, rational(1, degree))


def magnitude(value: Value) -> Value:
    """The absolute value."""
    return (libmp.mpc_abs(value, BITS, "n"), libmp.fzero)


def integer(value: Value) -> int | None:
    """The value where it is a whole number, else None."""
    sign, man, exponent, _ = value[0]
    if value[1] != libmp.fzero or exponent < 0 or exponent > LIMIT:
        return None
    return (-int(man) if sign else int(man)) << int(exponent)


def choose(top: Value, bottom: Value) -> Value:
    """The binomial coefficient of small whole numbers."""
    n, k = integer(top), integer(bottom)
    if n is None or k is None or not 0 <= k <= n <= 10 * LARGEST_FACTORIAL:
        raise Undefined
    return rational(comb(n, k))


def product_to(value: Value) -> Value:
    """The factorial of a small whole number."""
    n = integer(value)
    if n is None or not 0 <= n <= LARGEST_FACTORIAL:
        raise Undefined
    return rational(factorial(n))


def _over(name: str) -> Callable[[Value], Value]:
    return lambda value: div(ONE, function(name, value))


def _inverse_cotangent(value: Value) -> Value:
    return sub(div(pi(), rational(2)), function("arctan", value))


def functions() -> Mapping[str, Callable[[Value], Value]]:
    """The functions of one argument, by their LaTeX names."""
    plain = {
        "sin": libmp.mpc_sin, "cos": libmp.mpc_cos, "tan": libmp.mpc_tan, "arcsin": libmp.mpc_asin,
        "arccos": libmp.mpc_acos, "arctan": libmp.mpc_atan, "sinh": libmp.mpc_sinh, "cosh": libmp.mpc_cosh,
        "tanh": libmp.mpc_tanh, "exp": libmp.mpc_exp, "ln": libmp.mpc_log,
    }  # fmt: skip
    made: dict[str, Callable[[Value], Value]] = {
        name: lambda value, call=call: checked(call(value, BITS, "n"))  # type: ignore[misc]
        for name, call in plain.items()
    }
    made |= {"csc": _over("sin"), "sec": _over("cos"), "cot": _over("tan"), "arccot": _inverse_cotangent}
    return made


def function(name: str, value: Value) -> Value:
    """A function's value.

    Raises:
        Undefined: where it has none, or where the argument is so large that finding it would take long.
    """
    if name == "ln" and is_zero(value):
        raise Undefined
    if name != "ln" and any(part[1] and part[2] + part[3] > 16 for part in value):
        raise Undefined
    try:
        return _FUNCTIONS[name](value)
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise Undefined from error


_FUNCTIONS: Final = functions()


def is_zero(value: Value) -> bool:
    """Whether it is exactly zero."""
    return bool(value == ZERO)


def is_real(value: Value) -> bool:
    """Whether the imaginary part is nothing but rounding."""
    return libmp.mpf_le(libmp.mpf_abs(value[1]), libmp.mpf_shift(libmp.mpf_abs(value[0]), -120)) or bool(
        libmp.mpf_lt(libmp.mpf_abs(value[1]), libmp.mpf_shift(libmp.fone, -160))
    )


def is_negative(value: Value) -> bool:
    """Whether the real part is below zero."""
    return bool(libmp.mpf_lt(value[0], libmp.fzero))


def larger(one: Value, other: Value) -> Value:
    """The larger of two magnitudes."""
    return one if libmp.mpf_gt(one[0], other[0]) else other


def close(one: Value, other: Value, scale: Value = ZERO) -> bool:
    """Whether two values agree to 120 bits of the larger one, or to 170 of the terms (`scale`) they are sums of."""
    difference = libmp.mpc_abs(libmp.mpc_sub(one, other, BITS, "n"), BITS, "n")
    most = larger(magnitude(one), magnitude(other))[0]
    return libmp.mpf_le(difference, libmp.mpf_shift(most, -120)) or bool(
        libmp.mpf_le(difference, libmp.mpf_shift(scale[0], -170))
    )


def near(one: Value, other: Value) -> bool:
    """Whether two values agree to 6 bits of the larger one."""
    difference = libmp.mpc_abs(libmp.mpc_sub(one, other, BITS, "n"), BITS, "n")
    most = larger(magnitude(one), magnitude(other))[0]
    return bool(libmp.mpf_le(difference, libmp.mpf_shift(most, -6)))
