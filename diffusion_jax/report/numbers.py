"""How numbers are said to a reader: shares, counts and measures, times."""

from __future__ import annotations

__all__ = ["Number", "duration", "number", "percent"]

Number = float | int


def percent(share: Number, decimals: int = 1) -> str:
    """A share in [0, 1] as a percentage with so many decimals, none where it is whole."""
    text = f"{100 * share:.{decimals}f}"
    return (text.rstrip("0").rstrip(".") if decimals else text) + "%"


def number(value: Number | str) -> str:
    """Three significant figures; whole numbers in full, with separators."""
    if isinstance(value, str):
        return value
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def duration(seconds: Number) -> str:
    """Seconds as a person would say them: 8.4 s, 2 min 13 s, 1 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
