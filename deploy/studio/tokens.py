"""A rollout's text cut where its tokens are, each piece with how likely it was, so that a page can colour it.

The tokenizer is the one of the weights that sampled it, read from its tokenizer.json alone (no model, no torch).
"""

import contextlib
import math
from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from deploy.studio.site import Site
from processors.chat import BadPolicy, resolve
from schemas import messages as m

LEVELS = (0.9, 0.5, 0.1, 0.01)
"""Probabilities below which a token is coloured more strongly."""
_SPACE = "\u2581"
KEPT = 4
"""Tokenizers that are kept open; one of a large model takes a hundred megabytes."""
_HALF = "\N{REPLACEMENT CHARACTER}"


class Piece(msgspec.Struct):
    """Neighbouring tokens that look alike, as text."""

    text: str
    level: int
    """How many of LEVELS the probability is below."""
    logprob: float
    """Of the (only) token; of a run of sure ones, their mean."""
    version: int
    tokens: int = 1

    @property
    def p(self) -> float:
        """The probability."""
        return math.exp(self.logprob)


def level(logprob: float) -> int:
    """How many of LEVELS a log-probability is below."""
    return sum(logprob < math.log(bound) for bound in LEVELS)


def pieces(tokenizer: Tokenizer, rollout: m.Rollout) -> list[Piece]:
    """The rollout in pieces: every unsure token is one, and so is a run of sure ones under the same weights."""
    found: list[Piece] = []
    held: list[int] = []
    for at, (token, logprob) in enumerate(zip(rollout.token_ids, rollout.logprobs, strict=True)):
        held.append(token)
        text = _text(tokenizer, held)
        if text.endswith(_HALF) and len(held) < 8:
            continue  # half a character: its other bytes are in the next token
        version = next((span.version for span in rollout.spans if span.start <= at < span.stop), -1)
        piece = Piece(text, level(logprob), logprob, version)
        last = found[-1] if found else None
        if last and last.level == piece.level == 0 and last.version == version:
            count = last.tokens + 1
            found[-1] = Piece(last.text + text, 0, (last.logprob * last.tokens + logprob) / count, version, count)
        else:
            found.append(piece)
        held = []
    return found


def _text(tokenizer: Tokenizer, ids: list[int]) -> str:
    """What some tokens say; a tokenizer that marks spaces would drop the first one."""
    first = tokenizer.id_to_token(ids[0]) or ""
    said = str(tokenizer.decode(ids, skip_special_tokens=False))
    return " " + said if first.startswith(_SPACE) and not said.startswith(" ") else said


def fits(tokenizer: Tokenizer, rollout: m.Rollout) -> bool:
    """Whether it gives the rollout's text from its token ids: another model's would colour other words."""
    if len(rollout.token_ids) != len(rollout.logprobs):
        return False
    said = str(tokenizer.decode(rollout.token_ids, skip_special_tokens=True))
    return "".join(said.split()) == "".join(rollout.text.split())  # some models' decoding tidies spaces


def tokenizer_of(site: Site, version: int) -> Tokenizer | None:
    """The tokenizer of a version of the weights; None where its files are not on this machine."""
    row = site.tables.one("SELECT path FROM weights WHERE version = $1", [version])
    folders = [Path(str(row["path"]))] if row else []
    folders.append(site.data / "weights" / f"v{version}")
    with contextlib.suppress(BadPolicy):  # a policy that is gone: the other places may do
        folders.append(Path(resolve(site.settings.policy.path)))
    for folder in folders:
        if (folder / "tokenizer.json").is_file():
            return _opened(site, folder / "tokenizer.json")
    return None


def _opened(site: Site, path: Path) -> Tokenizer:
    held = site.tokenizers.pop(path, None) or Tokenizer.from_file(str(path))
    while len(site.tokenizers) >= KEPT:
        site.tokenizers.pop(next(iter(site.tokenizers), path), None)
    site.tokenizers[path] = held
    return held
