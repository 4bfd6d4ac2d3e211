r"""Our own reader of school algebra in LaTeX, which evaluates while it reads: numbers, letters, + - * / ^ !, roots.

Also functions, binomials, absolute values, implicit products ('2x', '3\sqrt{2}'), mixed numbers and repeating decimals.
Nothing but values comes out of it, so hostile text can at most be refused; nesting and length are limited.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

from processors import grading_values as v
from processors.grading_values import Value

MAX_TOKENS: Final = 400
MAX_DEPTH: Final = 40
_TOKEN = re.compile(
    r"\s*([0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+|\\?[A-Za-z]+|\\?\S)"
)
_OPEN, _CLOSE = "([{", ")]}"
_CLOSER: Final[Mapping[str, str]] = dict(zip(_OPEN, _CLOSE, strict=True))
_TIMES: Final = frozenset({"*", r"\cdot", r"\times", r"\ast"})
_OVER: Final = frozenset({"/", r"\div"})
_GREEK: Final = frozenset(
    rf"\{name}"
    for name in [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "varepsilon",
        "zeta",
        "eta",
        "theta",
        "vartheta",
        "kappa",
        "lambda",
        "mu",
        "nu",
        "xi",
        "rho",
        "sigma",
        "tau",
        "phi",
        "varphi",
        "chi",
        "psi",
        "omega",
        "Gamma",
        "Delta",
        "Theta",
        "Lambda",
        "Omega",
        "Phi",
        "Psi",
        "Sigma",
        "ell",
        "hbar",
    ]
)
_NAMED: Final[Mapping[str, str]] = {
    **{name: rf"\{name}" for name in (*v.functions(), "log", "sqrt", "pi")},
    "asin": r"\arcsin", "acos": r"\arccos", "atan": r"\arctan",
}  # fmt: skip
_APPLIED: Final = frozenset("fgFGP")
"""Letters that mean a function where a parenthesis follows: no product, so not for us."""


class Unread(ValueError):
    """The text is outside the grammar."""


Point = Callable[[str], Value]
"""The value of a letter."""


class Reader:
    """Recursive descent over the tokens; sums and products are loops, so only nesting recurses."""

    def __init__(self, text: str, point: Point) -> None:
        self.tokens = [*_tokens(text), ""]
        self.point = point
        self.at = 0
        self.depth = 0
        self.letters: set[str] = set()
        self.imaginary = False
        self.unreal = False
        self.scale = v.ZERO
        """The largest term that was added: what rounding errors are relative to."""

    @property
    def here(self) -> str:
        """The next token, '' at the end."""
        return self.tokens[self.at]

    def take(self, expected: str = "") -> str:
        """The next token, passed over.

        Raises:
            Unread: where it is not the expected one, or there is none.
        """
        word = self.here
        if not word or (expected and word != expected):
            raise Unread
        self.at += 1
        return word

    def whole(self) -> Value:
        """The value of the whole text."""
        value = self.sum()
        if self.here:
            raise Unread
        return value

    def sum(self) -> Value:
        """Sum = product (('+' | '-') product)*"""
        value = self.product()
        while self.here in ("+", "-"):
            other = v.neg(self.product()) if self.take() == "-" else self.product()
            terms = v.add(v.magnitude(value), v.magnitude(other))
            self.scale = v.larger(self.scale, terms)
            value = v.add(value, other)
        return value

    def product(self) -> Value:
        """Product = factor (times factor | over factor | factor)*"""
        value = self.factor()
        while True:
            if self.here in _TIMES:
                self.take()
                value = v.mul(value, self.factor())
            elif self.here in _OVER:
                self.take()
                value = v.div(value, self.factor())
            elif self._starts_factor():
                value = v.mul(value, self.factor())
            else:
                return value

    def _starts_factor(self) -> bool:
        word = self.here
        if word in _TIMES or word in _OVER:
            return False
        if word[:1].isdigit() or word[:1] == ".":  # '2 3' is no product that anybody writes
            if self.tokens[self.at - 1][:1].isdigit():
                raise Unread
            return True
        return word in ("(", "[", "{") or word[:1].isalpha() or (len(word) > 2 and word[0] == "\\")

    def factor(self) -> Value:
        """Factor = ('+' | '-')* power"""
        negative = False
        while self.here in ("+", "-"):
            negative ^= self.take() == "-"
        value = self.power()
        return v.neg(value) if negative else value

    def power(self) -> Value:
        r"""Power = atom '!'* ('^' exponent)? '!'*, where ^\circ is degrees"""
        value = self._postfix(self.atom())
        if self.here == "^":
            self.take()
            if self._degrees():
                value = v.div(v.mul(value, v.pi()), v.rational(180))
            else:
                value = self._real(v.power(value, self._exponent()))
        return self._postfix(value)

    def _real(self, value: Value) -> Value:
        """The value; that it is not real is remembered, for the point lies outside the expression's domain then."""
        self.unreal |= not v.is_real(value)
        return value

    def _postfix(self, value: Value) -> Value:
        while self.here == "!":
            self.take()
            value = v.product_to(value)
        return value

    def _degrees(self) -> bool:
        for form in ([r"\circ"], ["{", r"\circ", "}"]):
            if self.tokens[self.at : self.at + len(form)] == form:
                self.at += len(form)
                return True
        return False

    def _exponent(self) -> Value:
        self._deeper()
        negative = False
        while self.here in ("+", "-"):
            negative ^= self.take() == "-"
        value = _number(self.take()) if self.here[:1].isdigit() else self.atom()
        if self.here == "^":
            self.take()
            value = v.power(value, self._exponent())
        self.depth -= 1
        return v.neg(value) if negative else value

    def _deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unread

    def atom(self) -> Value:
        """Atom = number | letter | group | |sum| | command"""
        self._deeper()
        word = self.take()
        if word[0].isdigit() or word[0] == ".":
            value = self._mixed(word)
        elif word in _CLOSER:
            value = self.sum()
            self.take(_CLOSER[word])
        elif word in ("|", r"\lvert"):
            value = v.magnitude(self.sum())
            self.take("|" if word == "|" else r"\rvert")
        elif word[0] == "\\" and word not in _GREEK:
            value = self._command(word[1:])
        else:
            value = self._letter(word)
        self.depth -= 1
        return value

    def _mixed(self, word: str) -> Value:
        """A number; with a fraction of two whole numbers right behind it, their sum."""
        if self.here == r"\overline" and "." in word:
            return self._repeating(word)
        value = _number(word)
        if self.here == r"\frac" and word.isdigit():
            rest = "".join(self.tokens[self.at + 1 : self.at + 7])
            if re.match(r"\{[0-9]+\}\{[0-9]+\}|[0-9]{2}", rest):
                value = v.add(value, self.atom())
        return value

    def _repeating(self, word: str) -> Value:
        r"""A decimal whose last digits, under \overline, repeat for ever."""
        self.take()
        self.take("{")
        digits = self.take()
        self.take("}")
        places = len(word.partition(".")[2])
        tail = v.div(_number(digits), _number(str((10 ** min(len(digits), 100) - 1) * 10 ** min(places, 100))))
        return v.add(_number(word), tail)

    def _letter(self, word: str) -> Value:
        if not (word[0].isalpha() or word in _GREEK):
            raise Unread
        if word in _APPLIED and self.here == "(":
            raise Unread
        if word == "e":
            return v.e()
        if word == "i":
            self.imaginary = True
            return v.i()
        name = word
        while self.here in ("_", "'"):
            name += self.take() + (self._raw() if self.tokens[self.at - 1] == "_" else "")
        self.letters.add(name)
        return self.point(name)

    def _raw(self) -> str:
        """A subscript's text."""
        if self.here != "{":
            return self.take()
        text, depth = "", 0
        while True:
            word = self.take()
            depth += (word == "{") - (word == "}")
            if depth == 0:
                return text
            text += word if word != "{" else ""

    def _argument(self) -> Value:
        """What a command without braces takes: a group, or one digit, or one letter."""
        if self.here[:1].isdigit() and len(self.here) > 1:
            digit, self.tokens[self.at] = self.here[0], self.here[1:]
            return _number(digit)
        return _number(self.take()) if self.here[:1].isdigit() else self.atom()

    def _command(self, name: str) -> Value:
        if name in ("frac", "binom"):
            top, bottom = self._argument(), self._argument()
            return v.div(top, bottom) if name == "frac" else v.choose(top, bottom)
        if name == "sqrt":
            degree: int | None = 2
            if self.here == "[":
                self.take()
                degree = v.integer(self.sum())
                self.take("]")
            if degree is None or degree > 100:
                raise Unread
            return self._real(v.root(self.atom(), degree))
        if name == "pi":
            return v.pi()
        if name == "log" or name in v.functions():
            return self._function(name)
        raise Unread

    def _function(self, name: str) -> Value:
        base = exponent = None
        for _ in range(2):
            if self.here == "_" and name == "log" and base is None:
                self.take()
                base = self._exponent()
            elif self.here == "^" and exponent is None:
                self.take()
                exponent = self._exponent()
        value = self._operand()
        if exponent is not None and exponent == v.rational(-1):
            name, exponent = f"arc{name}", None
            if name not in v.functions():
                raise Unread
        if name == "log":
            base = v.rational(10) if base is None else base
            value = v.div(v.function("ln", value), v.function("ln", base))
        else:
            value = v.function(name, value)
        self._real(value)
        return value if exponent is None else v.power(value, exponent)

    def _operand(self) -> Value:
        r"""A function's argument: what stands in brackets, or the factors that follow ('\sin 2x')."""
        if self.here in ("(", "[", "{"):
            return self.atom()
        value = self.factor()
        while self._starts_factor() and self.here[1:] not in v.functions() and self.here not in ("(", r"\log"):
            value = v.mul(value, self.power())
        return value


def _tokens(text: str) -> list[str]:
    found: list[str] = []
    for match in _TOKEN.finditer(text):
        word = match[1]
        if word[0].isalpha() and len(word) > 1:
            if word in _NAMED:
                found.append(_NAMED[word])
            elif len(word) > 3 or not word.isascii():
                raise Unread  # a word
            else:
                found.extend(word)
        else:
            found.append(word)
        if len(found) > MAX_TOKENS:
            raise Unread
    return found


def _number(word: str) -> Value:
    whole, _, decimals = word.replace(",", "").partition(".")
    if not (whole + decimals).isascii() or not (whole + decimals).isdigit() or len(word) > 1000:
        raise Unread
    return v.rational(int(whole + decimals), 10 ** len(decimals))
