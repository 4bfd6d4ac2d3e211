"""Training: what each step measured, runs laid over one another, and the evaluations by version.

Every chart is one question to the tables, and links to it on the Ask page.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from deploy.studio import charts
from deploy.studio.site import Asked, Page, Site
from deploy.studio.tables import Row, Tables
from schemas.errors import Told


class Metric(msgspec.Struct, frozen=True):
    """One chart: a name, an expression over STEPS, and what it means."""

    name: str
    column: str
    about: str


RL = (
    Metric("reward", "reward", "mean reward of the rollouts trained on"),
    Metric("accuracy", "accuracy", "share of those rollouts that are correct"),
    Metric("length", "length", "mean response length, tokens"),
    Metric("backtracks", "backtracks", "mean backtracks a response"),
    Metric("entropy", "entropy", "of the policy, nats a token"),
    Metric("clip share", "clip_share", "share of tokens that the clip or the weight's cap holds"),
    Metric("lag", "lag_mean", "versions between sampling and training, mean"),
    Metric("stale rate", "stale", "share of rollouts that came too late since the step before"),
    Metric("KL to behaviour", "kl", "k3 estimate, nats a token"),
    Metric("effective sample size", "ess", "of the importance weights, share of the tokens"),
    Metric("gradient norm", "grad_norm", "before clipping"),
    Metric("loss", "loss", "of the objective"),
)
SFT = (
    Metric("loss", "loss", "mean over trained tokens, nats"),
    Metric("gradient norm", "grad_norm", "before clipping"),
    Metric("learning rate", "lr", ""),
    Metric("tokens a step", "tokens", "trained tokens"),
)
METRICS = {"rl": RL, "sft": SFT}
AXES = {
    "step": "step",
    "version": "version",
    "tokens": "sum(tokens) OVER (PARTITION BY run ORDER BY step)",
    "minutes": "(time - min(time) OVER (PARTITION BY run)) / 60",
}

STEPS = """WITH graded AS (
    SELECT run, step, sum(len(list_filter(verdicts, lambda v: v = 'correct'))) / sum(len(verdicts)) AS accuracy
    FROM (SELECT run, step, unnest(rows) AS id FROM training WHERE trainer = 'rl') JOIN rewards USING (id)
    GROUP BY ALL),
  late AS (
    SELECT s.run, s.step, sum(f.rollouts) AS late
    FROM (SELECT * FROM filtered WHERE stage = 'rl' AND why LIKE '%stale%') f
    ASOF JOIN (SELECT run, step, time FROM training WHERE trainer = 'rl') s ON f.time <= s.time GROUP BY ALL),
  steps AS (
    SELECT t.* EXCLUDE (rows), g.accuracy, coalesce(l.late, 0) / nullif(coalesce(l.late, 0) + t.rollouts, 0) AS stale
    FROM training t LEFT JOIN graded g USING (run, step) LEFT JOIN late l USING (run, step))
"""
"""The steps with what other tables add to them; a question about steps begins with it."""


class Run(msgspec.Struct, frozen=True):
    """One run of a trainer, in this data directory or in one beside it."""

    key: str
    """'run', or 'directory/run'."""
    place: str
    """The directory beside, '' = this one."""
    run: str
    trainer: str
    steps: int
    last: float


def page(site: Site, asked: Asked) -> Page:
    """The charts of the chosen runs and the evaluation table."""
    places = {"": site.tables} | dict(site.beside)
    runs, missing = _runs(places)
    wanted = asked.all("run")
    trainer = "rl" if any(run.trainer == "rl" for run in runs) else "sft"
    chosen = [run for run in runs if (run.key in wanted if wanted else run.trainer == trainer)]
    axis = asked.get("x") if asked.get("x") in AXES else "step"
    sections: list[dict[str, Any]] = []
    for kind, metrics in METRICS.items():
        if mine := [run for run in chosen if run.trainer == kind]:
            drawn = _charts(places, mine, metrics, axis, missing)
            sections.append({"trainer": kind, "charts": drawn, "runs": mine})
    values = {"runs": runs, "chosen": [run.key for run in chosen], "axis": axis, "axes": list(AXES)}
    colours = {run.key: at % 8 for section in sections for at, run in enumerate(section["runs"])}
    values |= {"sections": sections, "colours": colours, "missing": missing}
    return Page("training.html", values | _evaluations(places, asked, missing))


def _runs(places: Mapping[str, Tables]) -> tuple[list[Run], list[str]]:
    """All runs, newest first in each place; and the sentences of places that cannot be read."""
    found: list[Run] = []
    missing: list[str] = []
    for place, tables in places.items():
        try:
            rows = tables.kept(
                """SELECT run, trainer, count(*) AS steps, max(time) AS last FROM training
                GROUP BY run, trainer ORDER BY last DESC"""
            )
        except Told as error:
            if not place:
                raise
            _say(missing, place, error)
            continue
        found += [Run(f"{place}/{row['run']}" if place else row["run"], place, **row) for row in rows]
    return found, missing


def _say(missing: list[str], place: str, error: Told) -> None:
    """Note, once, why a directory cannot be read; the others are shown all the same."""
    if (sentence := f"{place or 'this directory'}: {error}") not in missing:
        missing.append(sentence)


def _charts(
    places: Mapping[str, Tables], runs: list[Run], metrics: tuple[Metric, ...], axis: str, missing: list[str]
) -> list[Row]:
    lines: dict[str, list[charts.Line]] = {metric.name: [] for metric in metrics}
    columns = ", ".join(metric.column for metric in metrics)
    answers: dict[str, list[Row]] = {}
    for place in {run.place for run in runs}:
        mine = [run.run for run in runs if run.place == place]
        query = f"{_question(axis, columns)} AND run IN (SELECT unnest($1)) ORDER BY step"
        try:
            answers[place] = places[place].kept(query, [mine])
        except Told as error:
            _say(missing, place, error)
    for run in runs:
        rows = [row for row in answers.get(run.place, []) if row["run"] == run.run]
        x = [float(row["x"] or 0) for row in rows]
        for metric in metrics:
            lines[metric.name].append(charts.Line(run.key, x, [row[metric.column] for row in rows]))
    here = ", ".join(f"'{run.run.replace(chr(39), chr(39) * 2)}'" for run in runs)
    return [
        {
            "name": metric.name,
            "about": metric.about,
            "svg": charts.chart(lines[metric.name], x_name=axis),
            "sql": f"{_question(axis, metric.column)} AND run IN ({here}) ORDER BY run, step",
        }
        for metric in metrics
    ]


def _question(axis: str, columns: str) -> str:
    return f"{STEPS}SELECT run, {AXES[axis]} AS x, {columns} FROM steps WHERE true"  # noqa: S608 - our own names


EVALUATIONS = """SELECT version, trainer, policy, source, problems, samples, greedy, temperature, pass_at_1, low, high,
  ks, pass_at_k, maj_at_k, tokens, backtracks, unparsable, truncated, asked, time FROM evaluations"""


def _evaluations(places: Mapping[str, Tables], asked: Asked, missing: list[str]) -> dict[str, Any]:
    """The evaluation table of one source, and pass@1 over the versions."""
    rows: list[Row] = []
    for place, tables in places.items():
        try:
            rows += [row | {"place": place} for row in tables.kept(f"{EVALUATIONS} ORDER BY version, source")]
        except Told as error:
            _say(missing, place, error)
    sources = sorted({row["source"] for row in rows})
    source = asked.get("source") if asked.get("source") in sources else ("all" if "all" in sources else "")
    kept = [row for row in rows if not source or row["source"] == source]
    lines: dict[str, list[Row]] = {}
    for row in kept:
        name = f"{row['place'] + '/' if row['place'] else ''}{row['policy']}"
        lines.setdefault(name, []).append(row)
    drawn = [
        charts.Line(
            name,
            [row["version"] for row in mine],
            [row["pass_at_1"] for row in mine],
            [row["low"] for row in mine],
            [row["high"] for row in mine],
        )
        for name, mine in lines.items()
    ]
    plot = charts.chart(drawn, x_name="version", width=820) if drawn else None
    question = f"{EVALUATIONS} WHERE source = '{source.replace(chr(39), chr(39) * 2)}' ORDER BY version"
    return {"evaluations": kept, "sources": sources, "source": source, "plot": plot, "evaluation_sql": question,
            "names": list(lines)}  # fmt: skip
