"""What a phase is to reach, as SQL over its tables: nothing but the tables says how far an experiment is.

Each goal is a query for one number and the number to reach. A few need facts of the moment: how much another
directory has spent, which versions there are.
"""

from collections.abc import Sequence

import msgspec

from deploy.feeding import unanswered
from deploy.ledger import STEPS
from schemas.settings import Settings


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """A number in the tables, and how large it must be."""

    what: str
    """In the plural: 'trees'."""
    sql: str
    of: int = 0
    of_sql: str = ""
    """Where the number to reach is asked instead, in the tables of `of_dir`."""
    of_dir: str = ""


_OPEN = {(step.stage, step.input): unanswered(step) for step in STEPS}
_UNWORDED = f"""
SELECT problem.id FROM trees WHERE {_OPEN["linearize", "trees"]}
UNION ALL SELECT problem.id FROM traces WHERE {_OPEN["verify", "traces"]}
"""  # noqa: S608 - our own names


def searched(problems: int) -> Goal:
    """Every problem has its tree and all that follows from it, or a stated reason for none."""
    sql = f"""
    SELECT count(*) FROM problems WHERE NOT ({_OPEN["search", "problems"]}) AND id NOT IN ({_UNWORDED})
    """  # noqa: S608 - our own names
    return Goal(what="trees", sql=sql, of=problems)


def worded() -> Goal:
    """Every tree has its traces and examples, or a stated reason for none."""
    sql = f"SELECT count(*) FROM trees WHERE problem.id NOT IN ({_UNWORDED})"  # noqa: S608 - our own names
    return Goal(what="trees", sql=sql, of_sql="SELECT count(*) FROM trees", of_dir=".")


def spent_as_much(directory: str) -> Goal:
    """The tokens that the trees of another directory cost."""
    sql = "SELECT coalesce(sum(generated_tokens), 0)::BIGINT FROM trees"
    return Goal(what="tokens", sql=sql, of_sql=sql, of_dir=directory)


def trained(settings: Settings, *, rl: bool) -> tuple[Goal, ...]:
    """The steps of both trainers, and their last versions announced."""
    steps = "SELECT coalesce(max(step), 0) FROM training WHERE trainer = '{}'"
    sft, last = settings.sft.hand_over_steps, settings.rl.max_steps
    over = Goal(what="hand-overs", sql="SELECT count(*) FROM weights WHERE handover", of=1)
    found = [Goal(what="SFT steps", sql=steps.format("sft"), of=sft), over]
    if rl:
        final = f"SELECT count(*) FROM weights WHERE trainer = 'rl' AND step >= {last}"  # noqa: S608 - a number
        found += [Goal(what="RL steps", sql=steps.format("rl"), of=last), Goal(what="last versions", sql=final, of=1)]
    return tuple(found)


def evaluated(file: str, settings: Settings) -> Goal:
    """Versions with a whole evaluation on `file` (its name without the ending): settings.evaluate says how many.

    An evaluation is whole with its row for 'all', which is sent last, and an answers row for each problem.
    """
    wanted = settings.evaluate
    among = ", ".join(map(str, wanted.versions)) or "-1"
    sql = f"""
    SELECT count(DISTINCT whole.version) FROM evaluations part JOIN evaluations whole USING (version, sha, asked)
    WHERE part.source = '{file}' AND whole.source = 'all' AND whole.samples = {wanted.samples}
      AND whole.max_tokens = {wanted.max_tokens} AND whole.version IN ({among})
      AND whole.problems = (SELECT count(DISTINCT a.id) FROM answers a
                            WHERE a.version = whole.version AND a.sha = whole.sha AND a.asked = whole.asked)
    """  # noqa: S608 - our own names and numbers
    return Goal(what="versions", sql=sql, of=len(wanted.versions))


LAST_ONES = """
SELECT version FROM weights WHERE handover
UNION SELECT max(version) FROM weights WHERE trainer = 'rl' HAVING max(version) IS NOT NULL ORDER BY 1
"""
"""The versions of the report's table: SFT's last and RL's last."""


def curve(count: int) -> str:
    """SQL for about `count` versions from SFT's last to RL's last, evenly spaced, both ends included."""
    return f"""
    WITH run AS (SELECT version, row_number() OVER (ORDER BY version) - 1 AS place, count(*) OVER () - 1 AS final
                 FROM weights WHERE trainer = 'rl' OR handover)
    SELECT version FROM run
    WHERE place = final OR place % greatest(1, ceil(final / {max(1, count - 1)})::BIGINT) = 0 ORDER BY 1
    """  # noqa: S608 - a number


def given_up(versions: Sequence[int], since: float) -> str:
    """SQL for the reason why one of these versions was not evaluated, if there is one since a time (epoch s)."""
    listed = ", ".join(f"'{version}'" for version in versions) or "''"
    return f"""
    SELECT input_id || ': ' || why FROM filtered WHERE stage = 'evaluate' AND split_part(input_id, ':', 1) IN ({listed})
      AND time >= {since}
    """  # noqa: S608 - numbers
