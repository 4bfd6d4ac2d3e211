"""The tiny policy's card: how it was made and what it can do, in numbers with their intervals."""

from collections.abc import Mapping

import msgspec

from schemas.tiny_problems import FAMILIES, HELD_OUT_SHARE
from trainers.tiny import documents
from trainers.tiny.architecture import CONTEXT, SHORT, Recipe
from trainers.tiny.exam import ROOM, SEED, Grade

_CARD = """\
# The tiny policy

A Llama-architecture model of {millions:.2f} million parameters with its own tokenizer, taught from nothing by

    factory bootstrap --out trainers/tiny/model

to solve two families of procedural problems step by step, and to be wrong often enough to learn from it. It knows
nothing else: no language, no other kind of problem, no reflection. It exists so that the whole factory runs on two
cores.

## What it was taught

Documents are made on the fly by seeded code, read once, packed into rows of {short} and {context} tokens:

- worked solutions of reasoning-gym's `countdown` and `chain_sum` (one in {share} problems, by a hash of its content, is
  held out). {planned:.0%} of the countdown solutions look ahead; the others try a first step at random and compute
  honestly what comes of it. So most wrong answers are guesses, not slips, and it was SHOWN such dead ends. A last
  step ends with "hit" or "miss", whether its result is the target: what is easy to check, a later reader of the
  solution can check, however far it stands. In `chain_sum` a step takes one to four terms; the more it takes, the
  likelier it slips.
- practice, headed "Practice.", which never follows a plain question: one to three attempts at one problem,
  taken up again, right or not, from the question ("Retry.") or from a named line ("Back to where we ..."), the last one
  judged ("Right.", "Wrong."), with up to ten idle lines between. It prepares for reflection; the words of reflection
  it has never seen, nor that one goes on because something was wrong.
- drills under the same heading: sums; single steps, each judged; a line of numbers and the same line again; a line
  out of several, named by the state it starts from.

Shares of the documents: {shares}; in the first {early:.0%} of the training {early_shares}.

## How

It starts from random weights among which a circuit for copying is laid out (an induction head, see
trainers/tiny/first_weights.py); Muon for the matrices, AdamW for the rest; every document is read once.

| recipe `{size}` | value |
|---|---|
{recipe}
| loss over the last tenth | {loss:.3f} nats a token |
| threads | {threads} |
| seconds | {seconds_training:.0f} teaching, {seconds:.0f} with the examination, {core_seconds:.0f} of processor time |

## What it can do

Held-out problems (reasoning-gym seed {seed}, parameters below), one sample each at temperature 1, at most {room}
tokens, graded with exact fractions; 95 % Wilson intervals. "of four": another four samples each of a quarter of
the problems.

| family | pass@1 | interval | n | unreadable | tokens | one of four right | different of four |
|---|---|---|---|---|---|---|---|
{grades}

{families}

Teacher-forced probes, {probes_each} each: passed when the most likely token is right at every position. Columns: idle
lines between an attempt and the question about it.

| probe | {distances} |
|---|{rule}
{probes}

- copying: a fresh start names the question's numbers again; recalling: a line named by the state it starts from is told
  to its end; verdict: "Right." or "Wrong." (half each); arithmetic: one operation on two numbers; any step: a line's
  result, up to four terms.
- The gate for learning reflection is 99 % for copying, verdicts and arithmetic. {gate}
"""
GATE = 0.99
_GATED = ("copying", "verdict", "arithmetic")


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a run of the bootstrap found out."""

    recipe: Recipe
    size: str
    """The recipe's name, or 'custom'."""
    parameters: int
    loss: float
    """Nats a token over the last tenth of the training."""
    threads: int
    seconds_training: float
    seconds: float
    """All together: teaching, examining, writing. On a busy machine more than the work itself takes."""
    core_seconds: float
    """Processor time of it, summed over cores: at least half of it passes on two idle cores."""
    grades: dict[str, Grade]
    probes: dict[str, float]
    """The share of passed probes by 'kind|family|distance'."""


def text(report: Report) -> str:
    """The card in Markdown."""
    distances, probes = _probes(report.probes)
    return _CARD.format(
        millions=report.parameters / 1e6,
        context=CONTEXT,
        planned=documents.PLANNED,
        shares=_shares(documents.SHARES),
        early=report.recipe.early,
        early_shares=_shares(documents.EARLY_SHARES),
        size=report.size,
        short=SHORT,
        share=HELD_OUT_SHARE,
        recipe="\n".join(f"| {name} | {value} |" for name, value in msgspec.structs.asdict(report.recipe).items()),
        loss=report.loss,
        threads=report.threads,
        seconds_training=report.seconds_training,
        seconds=report.seconds,
        core_seconds=report.core_seconds,
        seed=SEED,
        room=ROOM,
        grades="\n".join(_grade(family, grade) for family, grade in report.grades.items()),
        families="\n".join(f"- `{family}`: {dict(FAMILIES[family])}" for family in report.grades),
        probes_each=report.recipe.probes,
        distances=" | ".join(distances),
        rule="---|" * len(distances),
        probes="\n".join(probes),
        gate=_gate(report.probes),
    )


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items())


def _grade(family: str, grade: Grade) -> str:
    return (
        f"| {family} | {grade.rate:.3f} | {grade.low:.3f} to {grade.high:.3f} | {grade.problems} | "
        f"{grade.unreadable} | {grade.tokens:.1f} | {grade.any_of_four:.2f} | {grade.distinct:.1f} |"
    )


def _probes(shares: dict[str, float]) -> tuple[list[str], list[str]]:
    split = {tuple(name.split("|")): share for name, share in shares.items()}
    distances = list(dict.fromkeys(distance for _, _, distance in split))
    kinds = dict.fromkeys((kind, family) for kind, family, _ in split)
    table = []
    for kind, family in kinds:
        cells = [f"{split[kind, family, d]:.2f}" if (kind, family, d) in split else "" for d in distances]
        table.append(f"| {kind}, {family} | " + " | ".join(cells) + " |")
    return distances, table


def _gate(shares: dict[str, float]) -> str:
    below = [name for name, share in shares.items() if name.split("|")[0] in _GATED and share < GATE]
    if not below:
        return "All of them pass."
    return "Below it here: " + "; ".join(f"{name.replace('|', ' ')} ({shares[name]:.2f})" for name in below) + "."
