"""Checks of single values, for the places where input comes in from outside. No PyTorch."""

import math
import numbers
from collections.abc import Collection

INT64 = 2**63 - 1  # PyTorch's bound for sizes; ours for seeds too


def require_integer(name: str, value: object, least: int, most: int = INT64) -> None:
    """Raise ValueError unless ``value`` is an integer in [least, most]; a bool is not one."""
    integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not integer or not least <= value <= most:
        open_end = most == INT64 and not (integer and value > most)
        interval = f"of at least {least}" if open_end else f"from {least} to {most}"
        raise ValueError(f"{name} must be an integer {interval}, but is {value!r}")


def require_number(
    name: str,
    value: object,
    least: float = 0.0,
    below: float = math.inf,
    strict: bool = False,
    most: float | None = None,
) -> None:
    """Raise ValueError unless ``value`` is a finite number in [least, below); if strict, > least.

    With ``most``, that is the upper bound, inclusive.
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    high = number and (value < below if most is None else value <= most)
    if not high or not least <= value or (strict and value == least):
        end = f"{below:g})" if most is None else f"{most:g}]"
        interval = f"{'(' if strict else '['}{least:g}, {end}"
        raise ValueError(f"{name} must be a number in {interval}, but is {value!r}")


def require_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, but is {value!r}")
