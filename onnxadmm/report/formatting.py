"""Numbers as people read them: the one place that decides digits, units and signs."""

from __future__ import annotations

import math

from onnxadmm.errors import one_line

# Thin and unbreakable: digits group without a line break between them.
THIN = "\N{NARROW NO-BREAK SPACE}"
SPACE = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
SHARES = frozenset({"accuracy", "agreement"})
LOWER_IS_BETTER = frozenset({"mse", "loss"})
KILO = 1000
MINUTE_S = 60
HOUR_S = 3600
MANY_HOURS = 1000


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of this metric is the better one."""
    return metric.lower() in LOWER_IS_BETTER


def count(value: int | None) -> str:
    """`431 080`, grouped by thirds."""
    return NOTHING if value is None else f"{value:,}".replace(",", THIN).replace("-", MINUS)


def size(value_bytes: int | None) -> str:
    """`39.0 kB`: decimal units, three digits."""
    if value_bytes is None:
        return NOTHING
    if value_bytes < KILO:
        return f"{value_bytes}{SPACE}B"
    return _scaled(float(value_bytes) / KILO, ("kB", "MB", "GB", "TB", "PB"))


def ratio(value: float | None) -> str:
    """`20.7×`: three digits, two below 1."""
    return NOTHING if value is None else f"{_factor(value)}×"


def interval(low: float, high: float) -> str:
    """`3.52–3.68×`."""
    return f"{_factor(low)}{NOTHING}{_factor(high)}×"


def milliseconds(value_ms: float | None) -> str:
    """`84.1 µs`, `1.23 ms`, `2.35 s`, from milliseconds."""
    return NOTHING if value_ms is None else duration(value_ms / KILO)


def duration(value_s: float | None) -> str:
    """`84.1 µs`, `1.23 ms`, `4.21 s`, `3 min 12 s`, `1 h 04 min`, from seconds."""
    if value_s is None or not math.isfinite(value_s):
        return NOTHING
    if value_s == 0:
        return f"0{SPACE}s"
    if value_s < MINUTE_S - 0.05:
        return _scaled(value_s * KILO * KILO, ("µs", "ms", "s"))
    if value_s < HOUR_S - 0.5:
        minutes, rest = divmod(round(value_s), MINUTE_S)
        return f"{minutes}{SPACE}min{SPACE}{rest:02d}{SPACE}s"
    if value_s >= MANY_HOURS * HOUR_S:
        return f"{number(value_s / HOUR_S)}{SPACE}h"
    hours, minutes = divmod(round(value_s / MINUTE_S), MINUTE_S)
    return f"{count(hours)}{SPACE}h{SPACE}{minutes:02d}{SPACE}min"


def metric(name: str, value: float | None) -> str:
    """`99.25 %` for what is a share, else four digits."""
    if value is None:
        return NOTHING
    if name.lower() in SHARES:
        return f"{100 * value:.2f}{SPACE}%"
    return number(value, 4)


def metric_change(name: str, difference: float) -> str:
    """`−0.06 pp` (percentage points) for what is a share, else signed with three digits."""
    if name.lower() in SHARES:
        text = f"{abs(100 * difference):.2f}"
        sign = "±" if float(text) == 0 else "+" if difference > 0 else MINUS
        return f"{sign}{text}{SPACE}pp"
    if difference == 0:
        return "±0"
    return ("+" if difference > 0 else MINUS) + number(abs(difference))


def metric_interval(name: str, low: float, high: float) -> str:
    """`−0.12 to +0.06 pp`: the ends of a metric's change."""
    first, last = metric_change(name, low), metric_change(name, high)
    return f"{first.removesuffix(SPACE + 'pp')} to {last}"


def metric_amount(name: str, value: float) -> str:
    """`0.06 pp`: a difference of a metric without its sign, with digits enough to show it."""
    if name.lower() in SHARES:
        points = abs(100 * value)
        text = f"{points:.2f}"
        return f"{text if float(text) or not points else number(points, 1)}{SPACE}pp"
    return number(abs(value))


def error(value: float | None) -> str:
    """`3.1 × 10⁻⁷`: two digits and a power of ten."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    power = str(int(exponent)).translate(SUPERSCRIPTS)
    return f"{mantissa}{SPACE}×{SPACE}10{power}".replace("-", MINUS)


def share(part: float, whole: float) -> str:
    """`48 %`; never 0 % or 100 % for what is more than nothing or less than all."""
    if whole <= 0:
        return NOTHING
    percent = 100 * part / whole
    if 0 < percent < 1:
        return f"<{SPACE}1{SPACE}%"
    rounded = min(round(percent), 99) if percent < 100 else round(percent)  # noqa: PLR2004
    return f"{rounded}{SPACE}%"


def number(value: float, digits: int = 3) -> str:
    """Return so many significant digits, powers of ten where zeros would run on."""
    if not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if float(f"{abs(value):.{digits - 1}e}") >= 10.0 ** (magnitude + 1):
        magnitude += 1  # 9.996 shows as 10.0
    if not -4 <= magnitude < 9:  # noqa: PLR2004
        return error(value)
    text = f"{value:,.{max(digits - 1 - magnitude, 0)}f}"
    return text.replace(",", THIN).replace("-", MINUS)


def tick(value: float) -> str:
    """`0.05`, `120`: a round number on an axis, without the zeros that would mean precision."""
    text = number(value, 6)
    return text.rstrip("0").rstrip(".") if "." in text and "×" not in text else text


def tick_metric(name: str, value: float) -> str:
    """`99.2 %` for what is a share, else a round number."""
    return f"{tick(100 * value)}{SPACE}%" if name.lower() in SHARES else tick(value)


def provider(name: str) -> str:
    """`CPU`, `CUDA`."""
    return name.upper() if name in {"cpu", "cuda"} else one_line(name, 40)


def plural(amount: int, noun: str, many: str = "") -> str:
    """`1 gate`, `3 gates`."""
    return f"{count(amount)}{SPACE}{noun if amount == 1 else many or noun + 's'}"


def _factor(value: float) -> str:
    return number(value, 3 if value >= 1 else 2)


def _scaled(value: float, units: tuple[str, ...]) -> str:
    """Return three digits in the first unit in which the number stays below 1000."""
    for unit in units[:-1]:
        if value < KILO - 0.5:
            return f"{number(value)}{SPACE}{unit}"
        value /= KILO
    return f"{number(value)}{SPACE}{units[-1]}"
