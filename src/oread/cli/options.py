"""What several commands have in common: help texts and types of options."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import click

APP_HELP = "The registry to use: MODULE:NAME, looked for in the working directory first."


def seconds_up_to(longest: float) -> Callable[[str], float]:
    """Make an option's type: seconds from 0 to a longest time.

    click's own range lets `nan` pass.
    """

    def seconds(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value <= longest:
            raise click.BadParameter(f"{text!r} is not a number of seconds from 0 to {longest:g}")
        return value

    return seconds


_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")


def duration(text: str) -> float:
    """Read an option: a time such as 90, 1.5s, 10m or 2h; returns seconds."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is not a time such as 90, 1.5s, 10m or 2h")
    return float(found[1]) * _UNITS[found[2] or "s"]
