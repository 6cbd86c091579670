"""Checks of single values: their bounds and their messages."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gan_tutorial import checks


@given(st.integers(-100, 100), st.integers(-100, 100))
def test_require_integer_has_a_lower_bound(value, least):
    if value >= least:
        checks.require_integer("n", value, least)
    else:
        message = f"n must be an integer of at least {least}, but is {value}"
        with pytest.raises(ValueError, match=message):
            checks.require_integer("n", value, least)


@pytest.mark.parametrize("value", [True, 1.0, "1", None, math.nan, torch.tensor(1)])
def test_require_integer_accepts_integers_only(value):
    with pytest.raises(ValueError, match="n must be an integer"):
        checks.require_integer("n", value, 0)


@given(
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(-10, 10),
    st.floats(10, 20),
    st.booleans(),
)
def test_require_number_has_an_interval(value, least, below, strict):
    inside = least < value < below or (value == least and least < below and not strict)
    if inside:
        checks.require_number("x", value, least, below, strict)
    else:
        with pytest.raises(ValueError, match=r"x must be a number in [\[(].*\), but is"):
            checks.require_number("x", value, least, below, strict)


@pytest.mark.parametrize("value", [True, "1", None, math.inf, -math.inf, math.nan, 1j])
def test_require_number_accepts_finite_real_numbers_only(value):
    with pytest.raises(ValueError, match=r"x must be a number in \[0, inf\)"):
        checks.require_number("x", value)


def test_require_integer_has_an_upper_bound():
    checks.require_integer("n", 5, 0, 5)
    with pytest.raises(ValueError, match="n must be an integer from 0 to 5, but is 6"):
        checks.require_integer("n", 6, 0, 5)


def test_the_error_of_require_choice_lists_the_choices():
    checks.require_choice("kind", "mlp", ("mlp", "conv"))
    with pytest.raises(ValueError, match="kind must be one of mlp, conv, but is 'cnn'"):
        checks.require_choice("kind", "cnn", ("mlp", "conv"))
