r"""The answer in a text that is either a bare answer or a whole solution, as `factory grade` takes them from anybody.

In order: what stands last of \boxed{...} (boxes joined by 'and' or a comma: a list), '#### x' and an 'Answer: x' line;
'the answer is x' anywhere; a text that is no prose is its own answer; of prose, the formula that it ends with, or what
the last sentence says something 'is' or 'equals'. Prose that ends otherwise states no answer: ''. A number that merely
comes last is none: it would be right by chance too often.
"""

import re
from collections import deque
from typing import Final

from processors.answers import answer_line, balanced

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(?P<bare>[0-9A-Za-z]+))")
_MARK = re.compile(r"####[ \t]*(?=\S)")
_IS = re.compile(r"(?i)\b(?:answer)\s+(?:is|are|would be|must be|equals|to be)\s*:?\s+(?=\S)")
_SENTENCE = re.compile(r"[.!?]\s+(?=[A-Z*\\$])")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_VERB = re.compile(
    r"(?i)\b(?:we|so|thus|therefore|hence|get|gives?|obtain|find|equals?|since|then|is|are|was|were|know|because|step|makes?|earns?|has|have|had|costs?|pays?|needs?|sold)\b"
)
_FORMULA = re.compile(
    r"(?:\$\$(?P<a>[^$]+)\$\$|(?<!\\)\$(?P<b>[^$]+)\$|\\\[(?P<c>.{1,2000}?)\\\]|\\\((?P<d>.{1,2000}?)\\\))[\s.*]*$",
    re.DOTALL,
)
_INSIDE = re.compile(r"(?<!\\)\$(?P<b>[^$]+)\$|\\\((?P<d>[^()]{1,2000})\\\)")
_NUMBER = re.compile(r"(?:^|[^=\s])\s([-+]?[$\u20ac\u00a3]?[0-9][0-9,./]*%?)[.\s*]*$")
_BOLD = re.compile(r"(?<![0-9A-Za-z)}])\*\*([^*\s][^*]{0,200})\*\*(?![0-9A-Za-z({])")
_TAG = re.compile(r"<answer>([^<]*)</answer>")
_CLAIM = re.compile(r"(?i)(?:yes|no|true|false)[,.;!]\s[^.\n]*\.?$")
_COUNTED = re.compile(
    r"[-+]?[$\u20ac\u00a3]?[0-9][0-9,./]*%?\s+(?!(?:or|and|to|million|billion|hundred|thousand|dozen)\b)[A-Za-z]+(?=\s)"
)
_EQUALS = re.compile(r"(?i)(?:\b(?:is|are|equals|obtain|get|find)(?: that)?\s+|=\s*)(?=\S)")
BOXES: Final = 6
"""Joined boxes that are read at most."""
JOINT = re.compile(r"[\s$,;.]*(?:\\text\s*\{)?\s*(?:and|or|,|;)\s*\}?(?:\\quad|\\[,; ]|[\s$])*")
BRIEF: Final = 100
"""Characters of a single sentence that may be an answer in words."""
TAIL: Final = 4000
"""Characters at the end of a text that are searched for an unmarked answer."""


def stated(text: str) -> str:
    """The answer of a bare answer or a whole solution; '' where a solution states none, or breaks off in one."""
    return _BOLD.sub(r"\1", _stated(text))


def _stated(text: str) -> str:
    boxes = deque(_BOX.finditer(text), maxlen=BOXES)
    mark, line = _last(_MARK, text), answer_line(text)
    tagged = _last(_TAG, text)
    if tagged and not boxes:
        return tagged[1].strip()
    starts = [boxes[-1].start() if boxes else -1, mark.start() if mark else -1, line.start() if line else -1]
    if max(starts) >= 0:
        if boxes and starts[0] == max(starts):
            return _boxed(text, list(boxes))
        found = mark if mark and starts[1] == max(starts) else line
        assert found
        return _sentence(text, found.end())
    tail = text[-TAIL:]
    said = _last(_IS, tail)
    if said:
        return _sentence(tail, said.end())
    bare = text.strip()
    if not _is_prose(tail) or _CLAIM.match(bare):
        return bare
    return _ending(tail.strip()) or ("" if _SENTENCE.search(bare) or "\n" in bare or len(bare) > BRIEF else bare)


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


def _boxed(text: str, boxes: list[re.Match[str]]) -> str:
    contents: list[str] = []
    after = len(text)
    for box in reversed(boxes):
        content, end = (box["bare"], box.end()) if box["bare"] else balanced(text, box.end())
        if contents and not (end <= after and JOINT.fullmatch(text[end:after][:40]) and after - end < 40):
            break
        contents.append(content)
        after = box.start()
    return ", ".join(reversed(contents))


def _sentence(text: str, start: int) -> str:
    """From `start` to the end of the line or of the sentence."""
    end = text.find("\n", start)
    line = text[start : end if end >= 0 else len(text)]
    stop = _SENTENCE.search(line)
    return (line[: stop.start()] if stop else line).strip(" \t\r*_`")


def _is_prose(text: str) -> bool:
    words = _WORD.findall(re.sub(r"\\(?:text|mathrm|begin|end)\s*\{[^{}]*\}", " ", text))
    return len(words) >= 8 or _VERB.search(" ".join(words)) is not None


def _ending(text: str) -> str:
    formula = _FORMULA.search(text)
    if formula:
        return next(group for group in formula.groups() if group).strip()
    line = text.rpartition("\n")[2]
    stops = list(_SENTENCE.finditer(line))
    last = line[stops[-1].end() :] if stops else line
    inside = _last(_INSIDE, last)
    if inside:
        return next(group for group in inside.groups() if group).strip()
    number = _NUMBER.search(last)
    if number:
        return number[1]
    verb = _last(_EQUALS, last)
    if verb is None:
        return ""
    answer = last[verb.end() :].strip(" \t\r*_`")
    counted = _COUNTED.match(answer)
    if counted:
        return counted.group()
    return answer if len(_WORD.findall(answer)) <= 4 else ""
