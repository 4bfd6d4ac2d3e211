"""One problem and everything that was made of it: search trees, traces, groups of rollouts, evaluation answers."""

from deploy.studio import find, rollouts
from deploy.studio.site import Asked, NotThere, Page, Site
from schemas import messages as m


def page(site: Site, asked: Asked) -> Page:
    """A problem by its id."""
    id_ = asked.names["id"]
    problem = _problem(site, id_)
    one = site.tables.rows
    trees = one(
        """SELECT id, solved, stopped, strategy, policy_version, iterations, generated_tokens, seconds, _time
        FROM trees WHERE problem.id = $1 ORDER BY _time LIMIT 200""",
        [id_],
    )
    traces = one(
        """SELECT id, tree_id, arm, backtracks, wrong_answers, len(text) AS length
        FROM traces WHERE problem.id = $1 ORDER BY arm, backtracks, id LIMIT 200""",
        [id_],
    )
    kept = {row["id"] for row in one("SELECT id FROM examples WHERE problem.id = $1", [id_])}
    for row in traces:
        row["kept"] = row["id"] in kept
    groups = one("SELECT id, round, seconds, _time FROM rollouts WHERE problem.id = $1 ORDER BY round LIMIT 200", [id_])
    graded = rollouts.rewards(site, [row["id"] for row in groups])
    for row in groups:
        row.update(graded.get(row["id"], rollouts.UNGRADED))
    answers = one(
        """SELECT id, policy, version, trainer, verdicts, tokens, backtracks FROM answers
        WHERE problem.id = $1 ORDER BY version LIMIT 200""",
        [id_],
    )
    values = {"problem": problem, "trees": trees, "traces": traces, "groups": groups, "answers": answers}
    direct = next((row["id"] for row in traces if row["arm"] == "direct"), "")
    walks = [row for row in traces if row["arm"] == "search" and row["backtracks"]]
    search = max(walks, key=lambda row: row["backtracks"])["id"] if walks else ""
    return Page("problem.html", values | {"direct": direct, "search": search})


def _problem(site: Site, id_: str) -> m.Problem:
    """The problem; from a message that carries it, where the topic of problems was not kept."""
    found = site.tables.one("SELECT * FROM problems WHERE id = $1", [id_])
    for table in ("trees", "rollouts", "answers"):
        if not found:
            query = f"SELECT problem FROM {table} WHERE problem.id = $1 LIMIT 1"  # noqa: S608 - our own names
            found = site.tables.one(query, [id_]).get("problem", {})
    if not found:
        raise NotThere(f"no problem {id_!r} in the tables")
    return find.converted(found, m.Problem)
