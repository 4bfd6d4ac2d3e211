r"""What kind of answer an answer is (a list, set, tuple, interval, matrix, one value), and when two agree.

The rules, where mathematics leaves a choice:
  * a list ('1, 2', 'x = 1 or x = 2', '\pm 1') is a set: order does not count; in a tuple it does; a list agrees with a
    tuple of the same order;
  * '(1, 2]', '1 < x \le 2' and 'x \in (1, 2]' are one region of the line;
  * what is a number, a unit, a word or a choice letter: grading_scalars.py, grading_units.py, grading_text.py.
The verdict has three values: None where a part was not understood.
"""

import re
from collections.abc import Sequence
from typing import Final

from processors.answers import normal, rational
from processors.grading_regions import INFINITY, region, same_regions, variable
from processors.grading_scalars import NAME, all_of, any_of, scalars
from processors.grading_text import choice, is_claim, is_date, is_text, minutes, plain, same_words, split, unwrapped

MOST_CHARACTERS: Final = 20_000
"""Read while each element of one collection is compared with each of another; beyond that it is math-verify's turn."""
MAX_DEPTH: Final = 4
_MATRIX = re.compile(
    r"[(\[]?\s*\\begin\{(?:[pbBs]|small)?(?:matrix|array)\}(?:\{[lcr| ]*\})?(?P<body>.*)"
    r"\\end\{(?:[pbBs]|small)?(?:matrix|array)\}\s*[)\]]?",
    re.DOTALL,
)
_PM = re.compile(r"\\pm(?![A-Za-z])|\\mp(?![A-Za-z])")


def compare(gold: str, answer: str) -> bool | None:
    """Whether an answer agrees with the gold one; None where that takes more than these rules."""
    return _same(plain(gold), plain(answer), 0)


def _same(gold: str, answer: str, depth: int) -> bool | None:
    if normal(gold) == normal(answer) or unwrapped(gold) == unwrapped(answer):
        return True
    if depth > MAX_DEPTH or not answer or not gold:
        return None
    verdicts = (rule(gold, answer) for rule in (_choices, _texts, _dates, _times))
    verdict = next((found for found in verdicts if found is not None), None)
    if verdict is not None:
        return verdict
    numbers = rational(gold) is not None and rational(answer) is not None
    return scalars(gold, answer) if numbers else _structures(gold, answer, depth)


def _choices(gold: str, answer: str) -> bool | None:
    wanted, said = choice(gold), choice(answer)
    if wanted is None or said is None or wanted[0] > "J":
        return None
    if wanted[1] and said[1] and wanted[0] == said[0]:
        return None if normal(wanted[1]) != normal(said[1]) else True
    return wanted[0] == said[0]


def _texts(gold: str, answer: str) -> bool | None:
    if is_text(gold):
        return same_words(gold, answer) or _same_texts(gold, answer)
    if is_text(answer) and re.search("[0-9]", gold) and "=" not in gold and "," not in gold:
        return False
    return None


def _same_texts(gold: str, answer: str) -> bool:
    """Of a gold answer in words: claims by their first word, lists in any order, behind a name or a choice letter."""
    if is_claim(gold):
        return is_claim(answer) == is_claim(gold)
    if "," in gold or " and " in gold:
        pieces, others = (re.split(r"\s*,\s*(?:and\s+)?|\s+and\s+", unwrapped(text)) for text in (gold, answer))
        return len(pieces) == len(others) and all(any(same_words(one, two) for two in others) for one in pieces)
    name, equals, rest = answer.partition("=")
    if equals and NAME.fullmatch(name.strip()):
        return same_words(gold, rest)
    said = choice(answer)
    return said is not None and same_words(gold, said[1])


def _dates(gold: str, answer: str) -> bool | None:
    return same_words(gold, answer) if is_date(gold) else None


def _times(gold: str, answer: str) -> bool | None:
    wanted, said = minutes(gold), minutes(answer)
    if wanted is None or said is None:
        return None
    if wanted[1] and said[1]:
        return wanted[0] == said[0]
    return wanted[0] % 720 == said[0] % 720


def _structures(gold: str, answer: str, depth: int) -> bool | None:
    mine, others = (text[1:-1].strip() if text[:1] == "{" and _one_bracket(text) else text for text in (gold, answer))
    mine, others = _labelled(mine, others)
    if mine != gold or others != answer:
        return _same(mine, others, depth + 1)
    rows, cells = _matrix(gold), _matrix(answer)
    if any(r"\begin" in text and matrix is None for text, matrix in ((gold, rows), (answer, cells))):
        return None
    if rows is not None or cells is not None:
        return _matrices(rows, cells, gold, answer, depth)
    return _lines(gold, answer, depth)


def _lines(gold: str, answer: str, depth: int) -> bool | None:
    """Regions of the line, collections and single values."""
    one, other = region(gold), region(answer)
    kinds = _kind(gold), _kind(answer)
    if one and other and (INFINITY in gold + answer or kinds not in (("tuple", "tuple"), ("set", "set"))):
        names = variable(gold), variable(answer)
        return same_regions(one, other, scalars) if names[0] == names[1] or "" in names else False
    if kinds == ("scalar", "scalar"):
        return scalars(gold, answer)
    if (one or other) and "scalar" in kinds and "list" not in kinds and "set" not in kinds:
        return False
    return _collections(kinds, gold, answer, depth)


def _labelled(gold: str, answer: str) -> tuple[str, str]:
    r"""Both without 'S =' before a collection, or 'x \in' before a set."""
    made = []
    for text in (gold, answer):
        name, *rest = split(text, "=", r"\in")
        if len(rest) == 1 and NAME.fullmatch(name) and (_kind(rest[0]) in ("set", "tuple") or _matrix(rest[0])):
            made.append(rest[0])
        else:
            made.append(text)
    return made[0], made[1]


def _kind(text: str) -> str:
    """'set', 'tuple', 'list' or 'scalar'."""
    if text == r"\emptyset" or (text.startswith(r"\{") and text.endswith(r"\}") and _one_bracket(text)):
        return "set"
    if len(_list(text)) > 1 or (_PM.search(text) and len(split(text, "=")) <= 2):
        return "list"
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _one_bracket(text):
        return "tuple" if len(_list(text[1:-1])) > 1 else "scalar"
    return "scalar"


def _one_bracket(text: str) -> bool:
    """Whether the bracket at the beginning is closed by the one at the end."""
    depth = 0
    for match in re.finditer(r"\\?[{}]|[()\[\]]", text):
        depth += 1 if match.group()[-1] in "([{" else -1
        if depth == 0:
            return match.end() == len(text)
    return False


def _list(text: str) -> list[str]:
    """The items of a bare list; thousands separators are none where other commas are followed by a space."""
    if rational(text) is not None:
        return [text]
    pieces = split(text, ";")
    if len(pieces) == 1:
        inner = re.sub(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "", text) if ", " in text else text
        pieces = split(re.sub(r",\s+(and|or)\s", ",", inner), ",", "and", "or", r"\lor", r"\land", r"\vee", r"\wedge")
    return pieces if all(pieces) else [text]


def _items(text: str) -> list[str]:
    kind = _kind(text)
    if text == r"\emptyset":
        return []
    if kind == "set":
        return [form for piece in _list(text[2:-2]) for form in _signed(piece)]
    if kind == "tuple":
        return _list(text[1:-1])
    if kind == "list":
        pieces = _list(text)
        return [form for piece in pieces for form in _signed(piece)]
    return [text]


def _signed(text: str) -> list[str]:
    r"""The two values of '3 \pm 1'."""
    if not _PM.search(text):
        return [text]
    flip = {"pm": ("+", "-"), "mp": ("-", "+")}
    return [_PM.sub(lambda sign, at=at: flip[sign.group()[1:]][at], text) for at in (0, 1)]  # type: ignore[misc]


def _collections(kinds: tuple[str, str], gold: str, answer: str, depth: int) -> bool | None:
    mine, others = _items(gold), _items(answer)
    if "tuple" in kinds and "set" in kinds:
        return False
    if kinds == ("tuple", "tuple") and len(mine) == 2 and gold[0] + gold[-1] != answer[0] + answer[-1]:
        return False
    if "tuple" in kinds:
        return len(mine) == len(others) and all_of(_same(a, b, depth + 1) for a, b in zip(mine, others, strict=True))
    return _unordered(mine, others, depth)


def _unordered(gold: Sequence[str], answer: Sequence[str], depth: int) -> bool | None:
    """Each has its equal on the other side (so a repeated element does not count)."""
    mine, others = ({normal(item) for item in items} for items in (gold, answer))
    if mine == others:
        return True
    if len(gold) * sum(map(len, answer)) + len(answer) * sum(map(len, gold)) > MOST_CHARACTERS:
        return None
    table = [[_same(one, other, depth + 1) for other in answer] for one in gold]
    covered = [any_of(row) for row in table] + [any_of(row[at] for row in table) for at in range(len(answer))]
    return all_of(covered)


def _matrix(text: str) -> list[list[str]] | None:
    match = _MATRIX.fullmatch(text)
    if match:
        if r"\begin" in match["body"]:
            return None
        rows = re.split(r"\\\\|\\cr(?![a-z])", match["body"])
        return [[cell.strip() for cell in row.split("&")] for row in rows if row.strip()]
    if re.match(r"[(\[]\s*[(\[]", text) and _kind(text) == "tuple":
        inner = _list(text[1:-1])
        if all(_kind(row) == "tuple" for row in inner) and text[0] == "[":
            return [_items(row) for row in inner]
    return None


def _matrices(
    gold: list[list[str]] | None, answer: list[list[str]] | None, raw: str, said: str, depth: int
) -> bool | None:
    """Entry by entry; a vector may be written as a tuple."""
    rows = gold if gold is not None else _vector(raw, answer or [])
    cells = answer if answer is not None else _vector(said, gold or [])
    if rows is None or cells is None or [len(row) for row in rows] != [len(row) for row in cells]:
        return False
    pairs = zip((x for row in rows for x in row), (x for row in cells for x in row), strict=True)
    return all_of(_same(one, other, depth + 1) for one, other in pairs)


def _vector(text: str, like: list[list[str]]) -> list[list[str]] | None:
    if _kind(text) != "tuple":
        return None
    items = _items(text)
    return [[item] for item in items] if all(len(row) == 1 for row in like) else [items]
