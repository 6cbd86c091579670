"""Checks of single values, for the places where input comes in from outside. No PyTorch."""

import math
import numbers
from collections.abc import Collection


def require_integer(name: str, value: object, least: int, most: float = math.inf) -> None:
    """Raise ValueError unless ``value`` is an integer in [least, most]; a bool is not one."""
    integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not integer or not least <= value <= most:
        interval = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
        raise ValueError(f"{name} must be an integer {interval}, but is {value!r}")


def require_number(
    name: str, value: object, least: float = 0.0, below: float = math.inf, strict: bool = False
) -> None:
    """Raise ValueError unless ``value`` is a finite number in [least, below); if strict, above."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not least <= value < below or (strict and value == least):
        interval = f"{'(' if strict else '['}{least:g}, {below:g})"
        raise ValueError(f"{name} must be a number in {interval}, but is {value!r}")


def require_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, but is {value!r}")
