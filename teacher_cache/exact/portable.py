"""Functions exp, log, sine and cosine with the same bits on every platform.

The C library's results may differ by a unit in the last place between CPUs and releases, and a crop then
differs by a pixel. The functions here use only IEEE sums, products, quotients and powers of two, which give
the same bits everywhere, and are accurate to about 1e-14.
"""

from __future__ import annotations

import math
from decimal import Context, Decimal

_CONTEXT = Context(prec=40)
_LN_2 = 0.6931471805599453
_SQRT_HALF = 0.7071067811865476
_LOG_COEFFICIENTS = tuple(1 / order for order in range(21, 0, -2))


def exp(x: float) -> float:
    """Return e^x."""
    if abs(x) > 2.8:
        root = exp(x / 2)
        return root * root
    halved = x / 8
    total = 1.0
    for order in range(12, 0, -1):
        total = 1.0 + halved * total / order
    total *= total
    total *= total
    return total * total


def log(x: float) -> float:
    """Return ln(x) for x > 0, by the series of the inverse hyperbolic tangent on [sqrt(1/2), sqrt(2))."""
    mantissa, exponent = math.frexp(x)
    if mantissa < _SQRT_HALF:
        mantissa, exponent = 2 * mantissa, exponent - 1
    ratio = (mantissa - 1) / (mantissa + 1)
    square = ratio * ratio
    total = 0.0
    for coefficient in _LOG_COEFFICIENTS:
        total = total * square + coefficient
    return exponent * _LN_2 + 2 * ratio * total


def sin_cos(radians: float) -> tuple[float, float]:
    """Return the sine and cosine of an angle of at most pi, by their Taylor series."""
    square = radians * radians
    sine = cosine = 1.0
    for order in range(26, 0, -2):
        sine = 1.0 - square * sine / (order * (order + 1))
        cosine = 1.0 - square * cosine / ((order - 1) * order)
    return radians * sine, cosine


def exact_log(x: float) -> float:
    """Return ln(x), correctly rounded on every platform by decimal; slow, for a recipe's constants."""
    return float(Decimal(x).ln(_CONTEXT))
