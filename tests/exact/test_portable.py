"""The bits are promised to stay: the literals here may never change."""

import decimal
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacher_cache.exact import portable


@given(st.floats(-60, 20))
def test_exp(x: float) -> None:
    assert portable.exp(x) == pytest.approx(math.exp(x), rel=1e-13)


@given(st.floats(1e-16, 1e6))
def test_log(x: float) -> None:
    assert portable.log(x) == pytest.approx(math.log(x), rel=1e-14, abs=1e-15)


@given(st.floats(-math.pi, math.pi))
def test_sin_cos(radians: float) -> None:
    assert portable.sin_cos(radians) == pytest.approx((math.sin(radians), math.cos(radians)), abs=2e-15)


def test_exact_log_is_correctly_rounded_whatever_the_context_of_the_process() -> None:
    with decimal.localcontext(prec=3):
        found = portable.exact_log(0.75)
    assert found == float(decimal.Decimal("0.75").ln(decimal.Context(prec=60)))


def test_bits_are_pinned() -> None:
    bits = [portable.exp(-7.25), portable.log(0.3), *portable.sin_cos(0.4)]
    assert [value.hex() for value in bits] == [
        "0x1.7455fe323faeep-11",
        "-0x1.34378fcbda720p+0",
        "0x1.8ec3ae92b676bp-2",
        "0x1.d7954e7dba2f8p-1",
    ]
