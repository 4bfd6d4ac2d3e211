"""The ledger: every id that went in has an answer, a stated reason for none, or is in flight: no silent loss.

An id is in flight because of where it lies (at or beyond its group's committed offset), never because a difference
says so. For RL the same is counted in rollouts and tokens: generated = trained + stale + filtered + failed + in flight.
"""

import msgspec
import pyarrow as pa
from rich.console import Group
from rich.table import Table
from rich.text import Text

from deploy.ledger_facts import Facts
from schemas.settings import Settings

SHOWN = 20


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One way from an input to its answer."""

    stage: str
    """Also the consumer group's name."""
    input: str
    """Topic."""
    output: str
    """Table."""
    answer: str
    """SQL over the output's rows: the input ids that it answers, as column `id`."""


STEPS = (
    Step(stage="search", input="problems", output="trees", answer="problem.id AS id"),
    Step(stage="linearize", input="trees", output="traces", answer="tree_id AS id"),
    Step(stage="verify", input="traces", output="examples", answer="id"),
    Step(stage="sample", input="prompts", output="rollouts", answer="id"),
    Step(stage="verify", input="rollouts", output="rewards", answer="id"),
    Step(stage="rl", input="rewards", output="training", answer="CASE WHEN trainer = 'rl' THEN unnest(rows) END AS id"),
)


class StageLine(msgspec.Struct, frozen=True, kw_only=True):
    """One stage's account; taken = out + filtered + dead + in_flight + lost."""

    stage: str
    input: str
    output: str
    taken: int
    out: int
    filtered: int
    dead: int
    in_flight: int
    lost: int
    missing: list[str]
    """The first 20 ids that are lost."""


class Amount(msgspec.Struct, frozen=True, kw_only=True):
    """Rollouts and their tokens."""

    rollouts: int = 0
    tokens: int = 0


class RlLine(msgspec.Struct, frozen=True, kw_only=True):
    """What became of every rollout; generated = trained + stale + filtered + failed + in_flight when it closes."""

    generated: Amount
    trained: Amount
    stale: Amount
    filtered: Amount
    failed: Amount
    in_flight: Amount
    lost: Amount
    why: dict[str, int]
    """Rollouts filtered, by reason."""


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """All accounts."""

    stages: list[StageLine]
    rl: RlLine
    closes: bool
    online: bool
    """Whether a broker answered; otherwise it was computed from the tables and the offsets saved last."""


def compute(settings: Settings) -> Ledger:
    """The ledger now, running or not.

    Raises:
        NoDatasets: when there are no tables.
        BrokerMissing: when a cluster that the settings name does not answer.
    """
    facts = Facts(settings)
    with facts.connection:
        waiting: dict[str, set[str]] = {}
        stages = [_stage(facts, step, waiting) for step in STEPS]
        rl = _rl(facts, waiting["rollouts"] | waiting["rewards"])
    closes = not any(line.lost for line in stages) and rl.lost == Amount()
    return Ledger(stages=stages, rl=rl, closes=closes, online=facts.online)


def _all(table: str) -> str:
    return f'(FROM "{table}" UNION ALL FROM tail_{table})'


def _stage(facts: Facts, step: Step, waiting: dict[str, set[str]]) -> StageLine:
    query = f"""
    WITH inputs AS (SELECT id, _topic_id, _partition, _offset FROM {_all(step.input)}),
      answered AS (SELECT DISTINCT {step.answer} FROM {_all(step.output)}),
      filtered AS (SELECT DISTINCT input_id AS id FROM {_all("filtered")} WHERE stage = '{step.stage}'),
      dead AS (SELECT DISTINCT input_id AS id FROM {_all("dead_letters")} WHERE stage = '{step.stage}')
    SELECT id, CASE WHEN id IN (SELECT id FROM answered WHERE id IS NOT NULL) THEN 'out'
                    WHEN id IN (FROM filtered) THEN 'filtered' WHEN id IN (FROM dead) THEN 'dead' ELSE '' END AS fate,
      list((_topic_id, _partition, _offset)) AS places
    FROM inputs GROUP BY id
    """  # noqa: S608 - our own names
    fates: dict[str, int] = {"out": 0, "filtered": 0, "dead": 0}
    rest: dict[str, list[tuple[str, int, int]]] = {}
    for key, fate, places in facts.connection.execute(query).fetchall():
        if fate:
            fates[fate] += 1
        else:
            rest[key] = places
    waiting[step.input] = facts.in_flight(step.stage, step.input, rest)
    lost = sorted(set(rest) - waiting[step.input])
    return StageLine(
        stage=step.stage,
        input=step.input,
        output=step.output,
        taken=sum(fates.values()) + len(rest),
        **fates,
        in_flight=len(waiting[step.input]),
        lost=len(lost),
        missing=lost[:SHOWN],
    )


def _rl(facts: Facts, waiting: set[str]) -> RlLine:
    """Every group's rollouts by fate: a reason given counts first, for a part of a group that was trained, too."""
    connection = facts.connection
    connection.register("waiting", pa.table({"id": pa.array(sorted(waiting), pa.string())}))
    rows = connection.execute(f"""
    WITH groups AS (
        SELECT id, any_value(len(rollouts)) AS r,
          any_value(list_sum([len(x.token_ids) for x in rollouts])::BIGINT) AS t FROM {_all("rollouts")} GROUP BY id),
      trained AS (SELECT DISTINCT unnest(rows) AS id FROM {_all("training")} WHERE trainer = 'rl'),
      reasons AS (SELECT input_id AS id, any_value(why) AS why, sum(rollouts)::BIGINT AS r, sum(tokens)::BIGINT AS t
        FROM (SELECT DISTINCT ON (id) * FROM {_all("filtered")} WHERE stage IN ('rl', 'verify')) GROUP BY input_id),
      dead AS (SELECT DISTINCT input_id AS id FROM {_all("dead_letters")} WHERE stage IN ('rl', 'verify'))
    SELECT CASE WHEN g.id IN (FROM trained) THEN 'trained' WHEN f.id IS NOT NULL AND f.r IN (0, g.r) THEN 'filtered'
                WHEN g.id IN (FROM dead) THEN 'failed' WHEN g.id IN (FROM waiting) THEN 'in_flight' ELSE 'lost' END,
      g.r, coalesce(g.t, 0), f.why, coalesce(f.r, 0), coalesce(f.t, 0)
    FROM groups g LEFT JOIN reasons f ON g.id = f.id
    """).fetchall()  # noqa: S608 - our own names
    return _sum_up(rows)


def _sum_up(rows: list[tuple[str, int, int, str | None, int, int]]) -> RlLine:
    """Add up (fate, rollouts, tokens, reason, rollouts and tokens the reason is for) of all groups."""
    sums = {name: [0, 0] for name in ("trained", "stale", "filtered", "failed", "in_flight", "lost")}
    whys: dict[str, int] = {}
    total = [0, 0]
    for fate, rollouts, tokens, why, for_rollouts, for_tokens in rows:
        total = [total[0] + rollouts, total[1] + tokens]
        part = (0, 0)
        if why is not None:
            part = (rollouts, tokens) if fate == "filtered" else (for_rollouts, for_tokens)
            whys[why] = whys.get(why, 0) + part[0]
            _add(sums["stale" if "stale" in why.lower() else "filtered"], part)
        _add(sums[fate], (rollouts - part[0], tokens - part[1]))
    amounts = {name: Amount(rollouts=pair[0], tokens=pair[1]) for name, pair in sums.items()}
    return RlLine(generated=Amount(rollouts=total[0], tokens=total[1]), **amounts, why=whys)


def _add(pair: list[int], amount: tuple[int, int]) -> None:
    pair[0] += amount[0]
    pair[1] += amount[1]


def render(ledger: Ledger) -> Group:
    """The accounts as a person reads them."""
    table = Table(title="ledger", box=None)
    for name in ("stage", "from", "to", "taken", "out", "filtered", "dead letters", "in flight", "lost"):
        table.add_column(name, justify="left" if name in {"stage", "from", "to"} else "right", no_wrap=True)
    for line in ledger.stages:
        numbers = (line.taken, line.out, line.filtered, line.dead, line.in_flight, line.lost)
        table.add_row(line.stage, line.input, line.output, *(f"{number:,}" for number in numbers))
    rl = Table(title="rollouts", box=None)
    rl.add_column("")
    parts = ("generated", "trained", "stale", "filtered", "failed", "in_flight", "lost")
    for part in parts:
        rl.add_column(part.replace("_", " "), justify="right")
    amounts: list[Amount] = [getattr(ledger.rl, part) for part in parts]
    rl.add_row("rollouts", *(f"{amount.rollouts:,}" for amount in amounts))
    rl.add_row("tokens", *(f"{amount.tokens:,}" for amount in amounts))
    return Group(table, rl, *_remarks(ledger))


def _remarks(ledger: Ledger) -> list[Text]:
    found = [Text(f"filtered: {count:,} rollouts, {why}") for why, count in sorted(ledger.rl.why.items())]
    for line in ledger.stages:
        if line.missing:
            more = f" and {line.lost - len(line.missing)} more" if line.lost > len(line.missing) else ""
            found.append(Text(f"lost in {line.stage}: {', '.join(line.missing)}{more}", style="red"))
    if not ledger.online:
        found.append(Text("no broker runs: computed from the tables and the offsets saved last", style="dim"))
    verdict = Text("It closes.", style="green") if ledger.closes else Text("It does NOT close.", style="bold red")
    return [*found, verdict]
