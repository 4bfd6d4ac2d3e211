"""The ledger: every id that went in has an answer, a stated reason for none, or is in flight: no silent loss.

An id is in flight because of where it lies (at or beyond its group's committed offset), never because a difference
says so. Everything is asked of the broker and the tables anew each time; nothing is counted in memory.

Two consumers have no group, so nothing of theirs can lie behind an offset: SFT takes what its query gives, the
evaluator every version of `weights`, and both learn from the tables what they have not done yet. What is left waits,
after the hand-over for ever; neither can lose an id without asking for it again. Of two stages there is no account:
`produce` (a line of a file has no id before it is a problem, and what it refuses is a dead letter or a `filtered` row)
and `prompts` (it chooses by SQL and owes nothing to what it does not choose; ledger_names.py follows what it chose).
"""

import msgspec

from deploy import ledger_names, ledger_rl, ledger_sink
from deploy.ledger_facts import Facts, gather, open_letters, whole
from deploy.ledger_lines import Amount, Ledger, StageLine
from schemas.settings import Settings

__all__ = ["STEPS", "Amount", "Ledger", "StageLine", "Step", "compute"]


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
SFT = Step(
    stage="sft", input="examples", output="training", answer="CASE WHEN trainer = 'sft' THEN unnest(rows) END AS id"
)


def compute(settings: Settings) -> Ledger:
    """The ledger now, running or not.

    Raises:
        NoDatasets: when there are no tables.
        BrokerMissing: when a cluster that the settings name does not answer.
    """
    facts = gather(settings)
    with facts.connection:
        waiting: dict[str, set[str]] = {}
        stages = [_stage(facts, step, waiting) for step in STEPS]
        stages += [_untaken(facts, SFT), _evaluations(facts)]
        sinks = ledger_sink.lines(facts)
        named = ledger_names.lines(facts, waiting)
        rl, by = ledger_rl.account(facts, waiting["rollouts"] | waiting["rewards"])
    lost = [line.lost for line in (*stages, *sinks)] + [len(line.missing) for line in named]
    return Ledger(
        stages=stages,
        sinks=sinks,
        named=named,
        rl=rl,
        rl_by=by,
        closes=not any(lost) and rl.lost == Amount(),
        online=facts.online,
    )


def _fates(facts: Facts, step: Step) -> dict[str, int]:
    """How many ids of the input have which fate ('' = none); table `fates` has each id's."""
    facts.connection.execute(f"""
    CREATE OR REPLACE TEMP TABLE fates AS
    WITH answered AS (SELECT DISTINCT {step.answer} FROM {whole(step.output)})
    SELECT id, CASE WHEN id IN (SELECT id FROM answered WHERE id IS NOT NULL) THEN 'out'
                    WHEN id IN (SELECT input_id FROM {whole("filtered")} WHERE stage = '{step.stage}') THEN 'filtered'
                    WHEN id IN ({open_letters()} AND stage = '{step.stage}') THEN 'dead' ELSE '' END AS fate
    FROM (SELECT DISTINCT id FROM {whole(step.input)})
    """)  # noqa: S608 - our own names
    found = facts.connection.execute("SELECT fate, count(*) FROM fates GROUP BY fate").fetchall()
    return {"out": 0, "filtered": 0, "dead": 0, "": 0} | dict(found)


def _stage(facts: Facts, step: Step, waiting: dict[str, set[str]]) -> StageLine:
    """A stage with a group; `waiting` gets the ids of its input that are in flight."""
    fates = _fates(facts, step)
    query = f"""
    SELECT id, list((_topic_id, _partition, _offset)) FROM {whole(step.input)}
    WHERE id IN (SELECT id FROM fates WHERE fate = '') GROUP BY id
    """  # noqa: S608 - our own names
    rest = dict(facts.connection.execute(query).fetchall()) if fates[""] else {}
    waiting[step.input] = facts.in_flight(step.stage, step.input, rest)
    lost = sorted(set(rest) - waiting[step.input])
    return StageLine(
        stage=step.stage,
        input=step.input,
        output=step.output,
        taken=sum(fates.values()),
        out=fates["out"],
        filtered=fates["filtered"],
        dead=fates["dead"],
        in_flight=len(waiting[step.input]),
        lost=len(lost),
        missing=lost,
    )


def _untaken(facts: Facts, step: Step) -> StageLine:
    """A stage without a group: what it has not answered waits in a table."""
    fates = _fates(facts, step)
    return StageLine(
        stage=step.stage,
        input=step.input,
        output=step.output,
        taken=sum(fates.values()),
        out=fates["out"],
        filtered=fates["filtered"],
        dead=fates["dead"],
        in_flight=fates[""],
    )


def _evaluations(facts: Facts) -> StageLine:
    """A version is evaluated when an evaluation's row for 'all' has all its answers: the evaluator's own rule."""
    query = f"""
    WITH told AS (SELECT asked, version, sha, count(DISTINCT id) AS n FROM {whole("answers")} GROUP BY ALL),
      done AS (SELECT e.version, e.sha FROM {whole("evaluations")} e JOIN told USING (asked, version, sha)
        WHERE e.source = 'all' AND told.n >= e.problems),
      given_up AS (SELECT input_id FROM {whole("filtered")} WHERE stage = 'evaluate')
    SELECT count(*), coalesce(count_if(done), 0), coalesce(count_if(refused AND NOT done), 0) FROM (
      SELECT (version, sha256) IN (FROM done) AS done, version || ':' || sha256 IN (FROM given_up) AS refused
      FROM (SELECT DISTINCT version, sha256 FROM {whole("weights")}))
    """  # noqa: S608 - our own names
    taken, out, refused = facts.connection.execute(query).fetchall()[0]
    return StageLine(
        stage="evaluate",
        input="weights",
        output="evaluations",
        taken=taken,
        out=out,
        filtered=refused,
        in_flight=taken - out - refused,
    )
