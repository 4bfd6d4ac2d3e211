r"""Numbers with a unit, a currency or a percent sign: what is the number, what is the unit, and do two of them agree.

A unit that only one side names does not count ('18' and '18 dollars'). Where both sides name one, units of this table
are converted and must be of one kind ('500 cm' is '5 m', not '500 m'); what the table does not know counts things.
"""

import re
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from typing import Final

import msgspec

from processors.answers import changes_number

PERCENT: Final = "%"
_TABLE: Final[Mapping[str, tuple[str, str]]] = {
    name: (kind, factor)
    for kind, factor, names in (
        ("length", "1/1000", "mm millimeter millimetre"),
        ("length", "1/100", "cm centimeter centimetre"),
        ("length", "1/10", "dm decimeter decimetre"),
        ("length", "1", "m meter metre"),
        ("length", "1000", "km kilometer kilometre"),
        ("length", "0.0254", "in inch inches"),
        ("length", "0.3048", "ft foot feet"),
        ("length", "0.9144", "yd yard"),
        ("length", "1609.344", "mi mile"),
        ("mass", "1/1000", "mg milligram"),
        ("mass", "1", "g gram gm"),
        ("mass", "1000", "kg kilogram"),
        ("mass", "453.59237", "lb pound"),
        ("mass", "28.349523125", "oz ounce"),
        ("time", "1/1000", "ms millisecond"),
        ("time", "1", "s sec second"),
        ("time", "60", "min minute"),
        ("time", "3600", "h hr hour"),
        ("time", "86400", "day"),
        ("time", "604800", "week wk"),
        ("months", "1", "month"),
        ("months", "12", "year yr"),
        ("volume", "1/1000", "ml milliliter millilitre"),
        ("volume", "1", "l liter litre"),
        ("volume", "3.785411784", "gal gallon"),
        ("dollar", "1", "$ dollar usd buck"),
        ("dollar", "1/100", "cent \u00a2"),
        ("euro", "1", "\u20ac euro eur"),
        ("sterling", "1", "\u00a3 gbp"),
        ("yen", "1", "\u00a5 yen"),
        ("rupee", "1", "\u20b9 rupee rs"),
        ("angle", "1", "\u00b0 degree deg"),
        ("temperature C", "1", "\u00b0c celsius"),
        ("temperature F", "1", "\u00b0f fahrenheit"),
        ("radian", "1", "rad radian"),
        ("force", "1", "n newton"),
        ("energy", "1", "j joule"),
        ("power", "1", "w watt"),
        ("voltage", "1", "v volt"),
    )
    for name in names.split()
}
_CURRENCY: Final = "$\u20ac\u00a3\u00a5\u20b9"
_DEGREES = re.compile(r"\s*(?:\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree)\s*(?:\\text\s*\{\s*([CF])\s*\}|([CF]))?\s*$")
_WORDS = r"[A-Za-z]+\.?(?:\^\{?-?[0-9]\}?)?"
_UNIT = re.compile(rf"{_WORDS}(?:(?: ?/ ?| ?\\cdot ?|[ -]){_WORDS}){{0,6}}")
_TAIL = re.compile(rf"(?<=[0-9)\]}}])(?P<gap> ?)(?P<unit>{_UNIT.pattern})$")
_SCALES: Final[Mapping[str, str]] = {
    "dozen": "12", "hundred": "100", "thousand": "1000", "million": "10^6", "billion": "10^9", "trillion": "10^(12)",
}  # fmt: skip
_MANY = re.compile(
    rf"(?i)(?P<core>.*[0-9)\]}}])\s*(?:\\text\{{\s*)?(?P<word>{'|'.join(_SCALES)})\b\s*\}}?\s*"
    r"(?P<rest>[A-Za-z][A-Za-z ]*)?"
)
_LETTERS: Final = frozenset("mgshLlNJWV")
_NO_UNIT: Final = frozenset(
    ["pi", "sqrt", "sin", "cos", "tan", "log", "ln", "exp", "mod", "ab", "xy", "abc", "xyz", "choose"]
)


class Quantity(msgspec.Struct, frozen=True):
    """A number's text and its unit: '' for none, '%' for a percentage."""

    core: str
    unit: str = ""


def quantity(text: str) -> Quantity:
    r"""A scalar's text (as grading_forms.plain gives it) as number and unit.

    Inside \text{} anything that reads as words is a unit; bare words only behind a number, and bare letters only where
    they are known and a space sets them apart ('5 m', never '5m', which is a product).
    """
    text = text.strip()
    if text.endswith(PERCENT):
        return Quantity(text[:-1].rstrip(), PERCENT)
    return _degrees(text) or _money(text) or _multiple(text) or _worded(text) or _bare(text)


def _degrees(text: str) -> Quantity | None:
    match = _DEGREES.search(text)
    if match is None or re.search(r"\\[a-z]*(?:sin|cos|tan|cot|sec|csc)", text):
        return None
    return Quantity(text[: match.start()], "\u00b0" + (match[1] or match[2] or "").lower())


def _money(text: str) -> Quantity | None:
    for sign in _CURRENCY:
        if text.count(sign) == 1 and re.match(rf"[-+]?\s*{re.escape(sign)}|.*{re.escape(sign)}$", text):
            return Quantity(quantity(text.replace(sign, "", 1)).core, sign)
    return None


def _multiple(text: str) -> Quantity | None:
    match = _MANY.fullmatch(text)
    if match is None:
        return None
    rest = quantity(f"1 {match['rest']}") if match["rest"] else Quantity("1")
    return Quantity(f"{match['core']}*{_SCALES[match['word'].lower()]}", rest.unit)


def _worded(text: str) -> Quantity | None:
    at = text.find(r"\text{")
    if at <= 0:
        return None
    unit = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text[at:])
    unit = re.sub(r"\s*\^\s*", "^", " ".join(unit.split()))
    if unit.lower() in ("percent", "percentage", PERCENT):
        return Quantity(text[:at].rstrip(), PERCENT)
    known = _UNIT.fullmatch(unit) and not changes_number(unit)
    return Quantity(text[:at].rstrip(), unit) if known else Quantity(text)


def _bare(text: str) -> Quantity:
    match = _TAIL.search(text)
    if match is None:
        return Quantity(text)
    unit, first = match["unit"], re.split(r"[ /^.\\-]", match["unit"])[0]
    if unit.lower() in ("percent", "pct", "percentage"):
        return Quantity(text[: match.start()], PERCENT)
    if unit.lower() == "times":
        return Quantity(text[: match.start()], unit)
    known = kind(unit) is not None
    wordy = bool(match["gap"]) and (len(first) > 3 or first == "per")
    single = len(first) == 1 and (not match["gap"] or first not in _LETTERS)
    if first.lower() in _NO_UNIT or changes_number(unit) or single or not (known or wordy):
        return Quantity(text)
    return Quantity(text[: match.start()], unit)


def kind(unit: str) -> tuple[str, Fraction] | None:
    """A unit's kind ('length^1 time^-1') and its size in the kind's base unit; None for one not in the table."""
    powers: Counter[str] = Counter()
    size = Fraction(1)
    text = unit.replace("mph", "mile/hour").replace("km/h", "km/hour").replace("kph", "km/hour")
    for number, part in enumerate(re.split(r"\s*/\s*|\s+per\s+", text)):
        exponent = 1
        for word in re.split(r"\\cdot|[\s-]+", re.sub(r"\b(?:sq\.?|square)\s+(\w+)", r"\1^2", part)):
            name, _, power = word.replace("{", "").replace("}", "").partition("^")
            if name in ("cubic", "cu"):
                exponent = 3
                continue
            if name in ("squared", "cubed", ""):
                return None
            found = _lookup(name.rstrip("."))
            if found is None:
                return None
            exponent = (int(power) if power else exponent) * (1 if number == 0 else -1)
            powers[found[0]] += exponent
            size *= Fraction(found[1]) ** exponent
            exponent = 1
    return " ".join(f"{name}^{power}" for name, power in sorted(powers.items())), size


def _lookup(name: str) -> tuple[str, Fraction] | None:
    lower = name.lower()
    for form in (lower, lower.removesuffix("s"), lower.removesuffix("es")):
        if form in _TABLE:
            found, factor = _TABLE[form]
            return found, Fraction(factor)
    return None


def factor(gold: str, answer: str) -> Fraction | None:
    """What the answer's number is multiplied by to be in the gold's unit; None where the units are of two kinds."""
    if not gold or not answer or gold == answer:
        return Fraction(1)
    wanted, said = kind(gold), kind(answer)
    if wanted is None or said is None:
        return Fraction(1)
    return said[1] / wanted[1] if wanted[0] == said[0] else None
