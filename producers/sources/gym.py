"""Procedural problems from reasoning-gym, as endless streams that are the same on every machine.

reasoning-gym seeds its i-th problem with `seed + i`, so neighbouring seeds overlap: chunk c of a stream takes the seed
base + c * CHUNK. (One dataset of endless size would not do: some generators prepare a list as long as the dataset.)
"""

import difflib
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from processors.gym_graders import SCORED
from producers.sources.items import BadSource, Item, as_number, make_problem
from schemas import plugins
from schemas.messages import Grader, content_id
from schemas.tiny_problems import FAMILIES, is_held_out

CHUNK: Final = 1000
Purpose = Literal["train", "eval"]
GRADERS: Final[Mapping[str, Grader]] = {
    "countdown": "countdown",
    "chain_sum": "numeric",
    "gsm_symbolic": "numeric",
    "simple_equations": "numeric",
}
"""How a generator's answers are graded: numeric ones that are no number as 'math', those with a safe scorer of their
own (processors/gym_graders.py) as 'gym', the rest as 'math'."""
_NUMBER = re.compile(r"[+-]?\d[\d,]*(\.\d+)?")


class Gym:
    """One generator's stream.

    Args:
        generator: reasoning-gym's name for it.
        params: its parameters; `label` (the source's name) and `grader` are taken out.
        seed: factory.seed.
        purpose: the held-out stream has another seed.

    Raises:
        BadSource: for an unknown generator, naming the nearest, or parameters that it refuses.
    """

    def __init__(self, generator: str, params: Mapping[str, Any], seed: int, purpose: Purpose = "train") -> None:
        own = dict(params)
        self.generator = generator
        self.name = str(own.pop("label", generator))
        self.wanted: Grader | None = own.pop("grader", None)
        if self.wanted is not None and (why := plugins.unknown(plugins.GRADERS, self.wanted)):
            raise BadSource(f"problems.sources: {generator}: {why}")
        self.params = own
        self.family = generator if own == FAMILIES.get(generator) else ""
        """The tiny policy's family of this very form, which reserves problems by their hash; '' = none."""
        self.base = int(content_id("stream", self.name, seed, purpose)[:7], 16)
        self._dataset(0)

    def _dataset(self, chunk: int) -> Any:  # noqa: ANN401 - reasoning-gym's own class
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of a library that one of its generators imports
            import reasoning_gym
            from reasoning_gym.factory import DATASETS
        if self.generator not in DATASETS:
            near = difflib.get_close_matches(self.generator, DATASETS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see the gallery of reasoning-gym"
            raise BadSource(f"problems.sources: reasoning-gym has no generator {self.generator!r}: {hint}")
        try:
            return reasoning_gym.create_dataset(
                self.generator, seed=self.base + chunk * CHUNK, size=CHUNK, **self.params
            )
        except (TypeError, ValueError, AssertionError) as error:
            raise BadSource(f"problems.sources: {self.generator} refuses its params: {error}") from error

    def items(self, start: int = 0) -> Iterator[Item]:
        """Without end; an index at which the generator finds nothing has neither a problem nor an error."""
        chunk, offset = divmod(start, CHUNK)
        while True:
            dataset = self._dataset(chunk)
            for at in range(offset, CHUNK):
                yield self._item(chunk * CHUNK + at, dataset, at)
            chunk, offset = chunk + 1, 0

    def _item(self, index: int, dataset: Any, at: int) -> Item:  # noqa: ANN401 - reasoning-gym's own class
        try:
            entry = dataset[at]
        except ValueError:  # its way to say that no expression met the limits
            return Item(index=index)
        metadata = entry["metadata"]
        answer = str(entry["answer"]).strip()
        scored = "" if self.wanted else _scored(self.generator, entry)
        problem = make_problem(
            source=self.name,
            index=index,
            question=str(entry["question"]).strip(),
            answer=answer,
            grader="gym" if scored else self.wanted or _grader(self.generator, answer),
            difficulty=_difficulty(metadata),
            metadata=scored or _kept(metadata),
        )
        held_out = bool(self.family) and is_held_out(self.family, metadata)
        return Item(index=index, problem=problem, held_out=held_out)


def _grader(generator: str, answer: str) -> Grader:
    known = GRADERS.get(generator, "math")
    return "math" if known == "numeric" and not _NUMBER.fullmatch(answer) else known


def _scored(generator: str, entry: Mapping[str, Any]) -> str:
    """The metadata with which the generator's own scorer can judge, '' where it cannot: see processors/gym_graders."""
    if generator not in SCORED:
        return ""
    kept = {"generator": generator, "entry": {key: entry[key] for key in ("question", "answer", "metadata")}}
    try:
        return json.dumps(kept)
    except (TypeError, ValueError):  # an entry that JSON cannot hold
        return ""


def _difficulty(metadata: Mapping[str, Any]) -> float:
    """The count of numbers or terms, or the generator's own number; 0 where there is none."""
    if "numbers" in metadata:
        return float(len(metadata["numbers"]))
    return as_number(metadata.get("num_terms", metadata.get("difficulty")))


def _kept(metadata: Mapping[str, Any]) -> str:
    """What the grader, and the rule for held-out problems, ask for."""
    if "numbers" in metadata and "target" in metadata:
        return json.dumps({"numbers": list(metadata["numbers"]), "target": metadata["target"]})
    return json.dumps({"expression": metadata["expression"]}) if "expression" in metadata else ""
