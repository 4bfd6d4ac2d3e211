"""Exact arithmetic on untrusted text: the examination's own small reader of expressions (never Python's eval)."""

import re
from fractions import Fraction

_TOKEN = re.compile(r"\s*(?:(\d{1,9})|([-+*/()]))")
_DEPTH = 20


class _Unreadable(Exception):
    pass


def parse(text: str) -> tuple[Fraction, list[int]] | None:
    """The exact value of an expression and the whole numbers in it, in order; None where it is not an expression."""
    tokens: list[str] = []
    position = 0
    text = text.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return None
        tokens.append(match.group(1) or match.group(2))
        position = match.end()
    reader = _Reader(tokens)
    try:
        value = reader.sum(0)
    except (_Unreadable, ZeroDivisionError):
        return None
    return (value, reader.numbers) if reader.at == len(tokens) else None


class _Reader:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0
        self.numbers: list[int] = []

    def take(self, *wanted: str) -> str:
        """The next token if it is one of those, else ''."""
        if self.at < len(self.tokens) and self.tokens[self.at] in wanted:
            self.at += 1
            return self.tokens[self.at - 1]
        return ""

    def sum(self, depth: int) -> Fraction:
        value = self.product(depth)
        while sign := self.take("+", "-"):
            other = self.product(depth)
            value = value + other if sign == "+" else value - other
        return value

    def product(self, depth: int) -> Fraction:
        value = self.atom(depth)
        while sign := self.take("*", "/"):
            other = self.atom(depth)
            value = value * other if sign == "*" else value / other
        return value

    def atom(self, depth: int) -> Fraction:
        if depth > _DEPTH or self.at >= len(self.tokens):
            raise _Unreadable
        if self.take("-"):
            return -self.atom(depth + 1)
        if self.take("("):
            value = self.sum(depth + 1)
            if not self.take(")"):
                raise _Unreadable
            return value
        token = self.tokens[self.at]
        if not token.isdigit():
            raise _Unreadable
        self.at += 1
        self.numbers.append(int(token))
        return Fraction(int(token))
