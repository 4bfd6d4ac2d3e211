"""The tiny policy's tokenizer: one token a number, a word or a fixed phrase, and bytes for everything else.

A byte-level BPE without merges: the text is cut by one regular expression; a piece in the vocabulary is one token
(`ignore_merges`), any other falls apart into bytes. So every text survives encoding and decoding, and what the lessons,
the questions and the chain of thought's fixed phrases say is short.
"""

import re
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from processors.chat import GO_BACK, REFLECTION, RESTART, STEP_END, VERDICT_BAD, VERDICT_GOOD
from trainers.tiny import chain, countdown, documents

END = "<end>"
PAD = "<pad>"
TEMPLATE = (
    "{% for message in messages %}{{ message['content'] | trim }}"
    "{{ eos_token if message['role'] == 'assistant' else '\\n\\n' }}{% endfor %}"
)
"""Question, blank line, solution."""
NUMBERS = range(-99, countdown.LARGEST + 1)
_SAMPLE = 3000
_NEXT = r"(?=[-\d(])"
_WORDS = (
    # A signed term and a listed number are one token: a small model copies a list by finding the token it wrote last
    # and taking the next one, and a comma is found everywhere.
    r" [-+] \d(?!\d)",
    r", \d+",
    rf" [-+*/=] {_NEXT}",  # an operator between two operands, with its spaces
    r"-?\d+",
    rf" ?[A-Za-z']+(?: {_NEXT})?",  # a word takes the space before it, and the one after it where a number follows
    r"[,:;] ?",
    r"\.+",
    r" =",
)


def phrases() -> list[str]:
    """Texts that are one token each, wherever they stand."""
    wordings = [
        part for wording in countdown.QUESTIONS for part in _between(wording[0] + wording[1] + countdown.FORMAT)
    ]
    wordings += _between(chain.QUESTION)
    fixed = [REFLECTION, VERDICT_BAD, VERDICT_GOOD, GO_BACK, RESTART, STEP_END, " ..."]
    lessons = [documents.BACK, documents.HEADER, documents.RETRY, *documents.CHECK.values()]
    lessons += [countdown.HIT, countdown.MISS, " to make ", "Answer: "]
    return sorted({*wordings, *fixed, *lessons}, key=lambda text: (-len(text), text))


def _between(wording: str) -> list[str]:
    parts = re.split(r"\{\w+\}", wording)
    return [part for part in parts if len(part) > len(" =")]


def build() -> Tokenizer:
    """The tokenizer, always the same one: its vocabulary is counted from a fixed sample of documents."""
    pattern = "|".join([*(re.escape(phrase) for phrase in phrases()), *_WORDS])
    cut = pre_tokenizers.Split(Regex(pattern), "isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    cutter = pre_tokenizers.Sequence([cut, as_bytes])
    pieces = [END, PAD, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces += [piece for text in _texts() for piece, _ in cutter.pre_tokenize_str(text)]
    pieces = [*pieces[:2], *sorted(set(pieces[2:]))]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = cutter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END, PAD])
    return tokenizer


def _texts() -> list[str]:
    """What the vocabulary must cover, in any order."""
    numbers = [str(number) for number in NUMBERS]
    numbers += [f", {number}" for number in NUMBERS if number > 0] + [
        f" {sign} {digit}" for sign in "+-" for digit in range(10)
    ]
    lessons = ["".join(span.text for span in document) for document in islice(documents.stream(0), _SAMPLE)]
    # As the chain of thought says them: behind a jump, with and without an ending, and cut into words.
    back = [f"{GO_BACK} use 1", f"{RESTART} ... {RESTART}. Use 1, use 2, Use (", " - -1 + (2) * (3) / (4)"]
    words = [word for phrase in (REFLECTION, VERDICT_BAD, VERDICT_GOOD, GO_BACK, RESTART) for word in phrase.split(" ")]
    return [*phrases(), *numbers, *sorted(lessons), *back, *words, *(f" {word}" for word in words)]


def end_and_pad(words: Tokenizer) -> tuple[int, int]:
    """The ids of the token that ends a response and of the padding token."""
    ids = words.token_to_id(END), words.token_to_id(PAD)
    assert ids[0] is not None
    assert ids[1] is not None
    return ids[0], ids[1]


def values(words: Tokenizer) -> dict[int, int]:
    """The value of each token that is a number: 7 for '7' and ', 7' and ' + 7', -7 for ' - 7' and '-7'."""
    found = {}
    for piece, number in words.get_vocab().items():
        match = re.fullmatch(r"(?:,Ġ|Ġ\+Ġ|Ġ(?=-Ġ))?(-Ġ)?(-?\d+)", piece)
        if match:
            found[number] = int(match[2]) * (-1 if match[1] else 1)
    return dict(sorted(found.items()))


def save(directory: Path, context: int) -> None:
    """Writes the files that transformers and vLLM open, chat template included.

    Args:
        directory: the policy directory.
        context: longest sequence in tokens.
    """
    from transformers import PreTrainedTokenizerFast

    fast: Any = PreTrainedTokenizerFast(
        tokenizer_object=build(),
        eos_token=END,
        pad_token=PAD,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(str(directory))
