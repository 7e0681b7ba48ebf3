"""How numbers and names are written on the page."""

import math
import os
from collections.abc import Iterable

MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
THIN_SPACE = "\N{NARROW NO-BREAK SPACE}"


def number(value: float | None, digits: int = 3) -> str:
    """`digits` significant digits without an exponent where that is readable; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        return power(value)
    decimals = max(0, digits - 1 - (math.floor(math.log10(abs(value))) if value else 0))
    return f"{value:,.{decimals}f}".replace("-", MINUS).replace(",", THIN_SPACE)


def signed(value: float | None, digits: int = 3) -> str:
    """Like `number`, with its sign."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 else text


def power(value: float) -> str:
    """Scientific notation, e.g. 4.7 × 10⁻¹¹."""
    mantissa, exponent = f"{value:.1e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa.replace('-', MINUS)} \N{MULTIPLICATION SIGN} 10{raised}"


def count(value: int | None) -> str:
    """A whole number with its thousands apart."""
    return MISSING if value is None else f"{value:,}".replace(",", THIN_SPACE)


def percent(share: float | None) -> str:
    """A share as a whole percentage."""
    return MISSING if share is None else f"{100 * share:.0f}%"


def seconds(value: float) -> str:
    """A duration in seconds, or minutes from two of them on."""
    return f"{number(value, 2)} s" if value < 120 else f"{number(value / 60, 2)} min"


def plural(n: int, noun: str) -> str:
    """E.g. '1 structure', '12 structures'."""
    return f"{count(n)} {noun}" + ("" if n == 1 else "s")


def listed(items: Iterable[str]) -> str:
    """E.g. 'a, b and c'."""
    items = list(items)
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1] if items else MISSING


def layer_names(layers: Iterable[str]) -> str:
    """Layers of a feature vector as one name."""
    return " + ".join(layers)


def short_names(sources: Iterable[str]) -> dict[str, str]:
    """File names without the folder they all share, so that tables stay narrow and the names unique."""
    names = sorted({s for s in sources if s})
    try:
        shared = os.path.commonpath([os.path.dirname(name) for name in names]) if names else ""
    except ValueError:  # relative and absolute names together
        shared = ""
    return {name: os.path.relpath(name, shared) if shared else name for name in names}


def behind(score: float, best: float) -> str:
    """How far a score lies behind the best one."""
    return "equal" if best - score < 1e-6 else number(score - best, 2)
