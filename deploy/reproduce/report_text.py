"""report.md: the tables and sentences of the report, in the order in which a reader asks.

Every number comes from report.json's content; the sentences are report_sentences.py's. Models' words stand in fences.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deploy.reproduce import report_sentences as say
from deploy.reproduce.report_plots import label

Report = Mapping[str, Any]

PAPER: Mapping[str, tuple[str, str, str]] = {
    "base": ("65.8", "37.5", "10.0"),
    "direct_sft": ("65.8", "45.2", "16.7"),
    "astro_sft": ("69.6", "51.9", "16.3"),
    "direct_rl": ("79.8", "60.5", "27.1"),
    "astro_rl": ("81.8", "64.4", "30.0"),
}
"""Llama-3.1-70B-Instruct on MATH-500, AMC 2023, AIME 2024 (arXiv 2507.00417)."""
PAPER_DIFFERENCES: Mapping[str, tuple[str, str, str]] = {
    "astro_rl_minus_base": ("16.0", "26.9", "20.0"),
    "astro_rl_minus_direct_rl": ("2.0", "3.9", "2.9"),
    "astro_sft_minus_direct_sft": ("3.8", "6.7", "-0.4"),
    "direct_rl_minus_base": ("14.0", "23.0", "17.1"),
    "astro_rl_minus_astro_sft": ("12.2", "12.5", "13.7"),
}
EXAMPLES = (
    ("win", "ASTRO-RL goes back and wins", "There is no problem on which ASTRO-RL gains on Direct-RL by going back."),
    ("loss", "ASTRO-RL loses", "There is no problem on which Direct-RL is better."),
)
QUERY = """select 100 * avg(share) from (
  select list_avg([(v = 'correct')::int for v in verdicts]) as share from answers
  where problem.source = 'test' and version = (select max(version) from weights where trainer = 'rl'))"""

OTHER_MODEL = (
    "The paper's numbers are those of another model (Llama-3.1-70B-Instruct) on other problems: what can be compared "
    "is the order of the arms, not the values."
)
ASK_AGAIN = (
    "Every number is a query over the tables of the data directories, for example the pass@1 of an RL arm and seed "
    "(`factory sql --data OUT/seed-0/astro`):"
)


def markdown(report: Report) -> str:
    """The whole text."""
    parts = (head, results, first_attempts, tokens_spent, training, costs, matched, samples, origin)
    return join([part(report) for part in parts]) + "\n"


def join(parts: Iterable[str]) -> str:
    """Parts with a blank line between them; empty ones leave no trace."""
    return "\n\n".join(part for part in parts if part)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def bullets(sentences: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"* {sentence}" for sentence in sentences)


def head(report: Report) -> str:
    """What was asked and what came out."""
    plan = report["plan"]
    scale = (
        f"Scale {plan['scale']}: policy `{plan.get('policy', 'tiny')}`, {len(plan['seeds'])} seed(s), "
        f"{plan['test']['problems']:,} test problems, {plan['samples']} samples each, at most {plan['max_tokens']} "
        f"tokens a response, {plan['steps']['sft']} SFT steps and {plan['steps']['rl']} RL steps in every arm."
    )
    parts = ["# The paper's experiment, reproduced small", scale, say.clean(report), bullets(say.verdicts(report))]
    if rows := say.targets(report):
        parts.append(table(("to reach", "asked", "measured", ""), rows))
    return join(parts)


def results(report: Report) -> str:
    """The paper's table with this run's numbers beside it."""
    rows = []
    for name, arm in report["arms"].items():
        paper = PAPER.get(name, ("-", "-", "-"))
        rows.append((label(name), say.spread(arm["pass_at_1"]), *paper))
    differences = [
        (
            " minus ".join(label(part) for part in name.split("_minus_")),
            say.spread(one),
            *PAPER_DIFFERENCES.get(name, ("-", "-", "-")),
        )
        for name, one in report["differences"].items()
    ]
    here = f"here: pass@1 of {report['plan']['samples']} samples"
    columns = ("paper: MATH-500", "paper: AMC 2023", "paper: AIME 2024")
    return join(
        [
            "## Accuracy, beside the paper's",
            OTHER_MODEL,
            table(("arm", here, *columns), rows),
            table(("difference, points", "here", *columns), differences),
            say.uncertainty(report),
            "![pass@1 of the arms](plots/accuracy.svg)",
        ]
    )


def first_attempts(report: Report) -> str:
    """Lengths, backtracks, first attempts."""
    names = (
        "tokens", "backtracks", "with_backtrack", "first_attempt", "self_corrected", "spoiled",
        "backtracks_leaving_right", "truncated", "unparsable",
    )  # fmt: skip
    header = (
        "arm", "tokens", "backtracks", "go back, %", "first answer right, %", "corrected, %", "spoiled, %",
        "backtracks that leave a right answer, %", "cut off, %", "unreadable, %",
    )  # fmt: skip
    rows = [[label(key), *(number(arm[name]) for name in names)] for key, arm in report["arms"].items()]
    return join(
        ["## Does it learn to err first?", table(header, rows), bullets(say.err_first(report))],
    )


def number(value: float | None) -> str:
    """A number as a cell of a table."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def tokens_spent(report: Report) -> str:
    """Accuracy against tokens at test time."""
    arms = report["arms"]
    ks = sorted({int(k) for arm in arms.values() for k in arm["pass_at_k"]})
    header = ("arm", "tokens", "pass@1", *(f"maj@{k}" for k in ks), *(f"pass@{k}" for k in ks))
    rows = [
        [
            label(name),
            number(arm["tokens"]),
            number(arm["pass_at_1"]["mean"]),
            *(
                number(arm[kind].get(str(k), {}).get("mean"))
                for kind, k in [(kind, k) for kind in ("maj_at_k", "pass_at_k") for k in ks]
            ),
        ]
        for name, arm in arms.items()
    ]
    parts = ["## Accuracy against tokens spent", table(header, rows), bullets(say.at_equal_tokens(report))]
    return join([*parts, "![accuracy against tokens](plots/tokens.svg)"])


def training(report: Report) -> str:
    """Curves and the correlation."""
    curves = report["curves"]
    if not curves["training"] and not curves["dev"]:
        return ""
    rows = []
    for directory, dev in curves["dev"].items():
        for row in (dev[0], dev[-1]):
            cells = (row["pass_at_1"], row["tokens"], row["backtracks"], row["truncated"])
            rows.append([directory, str(row["step"]), *map(number, cells)])
    parts = ["## Over RL's steps"]
    if curves["training"]:
        parts.append("![RL's steps](plots/rl.svg)")
    if rows:
        header = ("data directory", "RL step", "pass@1 on dev", "tokens", "backtracks", "cut off, %")
        parts += [table(header, rows), "## Backtracks against accuracy", say.correlated(report)]
        parts.append("![backtracks against accuracy](plots/backtracks.svg)")
    return join(parts)


def costs(report: Report) -> str:
    """What the search cost."""
    return f"## What the search cost\n\n{bullets(say.search_cost(report))}" if report["search"] else ""


def matched(report: Report) -> str:
    """What the arms had in common and what they had not."""
    names = (
        "sft_steps", "sft_tokens", "sft_examples", "rl_steps", "rl_rollouts", "rl_tokens", "rl_sampled_tokens",
        "rl_sampled_longest",
    )  # fmt: skip
    header = (
        "arm", "SFT steps", "SFT tokens", "SFT examples", "RL steps", "RL rollouts trained on", "RL tokens trained on",
        "RL tokens sampled", "longest",
    )  # fmt: skip
    rows = [[label(key), *(count(arm.get(name)) for name in names)] for key, arm in report["arms"].items()]
    text = "Means over the seeds. Steps and the largest length are equal by plan; tokens are what came of them."
    return f"## Matched quantities\n\n{text}\n\n{table(header, rows)}"


def count(value: float | None) -> str:
    """A mean of counts as a cell."""
    return "-" if value is None else f"{value:,.0f}"


def samples(report: Report) -> str:
    """A win and a loss, in the models' own words."""
    if not {"astro_rl", "direct_rl"} <= set(report["arms"]):
        return ""
    parts = ["## Two chains of thought"]
    for name, title, none in EXAMPLES:
        one = report["examples"].get(name)
        if one is None:
            parts.append(none)
        else:
            rates = (
                f"Seed {one['seed']}, problem {one['problem']}: ASTRO-RL is right in {one['astro_rl_pass_at_1']:.0f} %,"
                f" Direct-RL in {one['direct_rl_pass_at_1']:.0f} % of its samples. Chosen for the widest gap."
            )
            parts += [f"### {title}", rates, fence(one["question"])]
            parts += ["ASTRO-RL:", fence(one["astro_rl"]), "Direct-RL:", fence(one["direct_rl"])]
    return join(parts)


def fence(text: str) -> str:
    """Text as it is, whatever stands in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}text\n{text.strip()}\n{marks}"


def origin(report: Report) -> str:
    """Command, commit, time, machine, and how to ask again."""
    wall = report["wall"]
    rows = [(name, f"{seconds / 60:.1f}") for name, seconds in wall.items()]
    commit = report["commit"] or "unknown"
    return join(
        [
            "## How it was made",
            f"`{report['command']}`, commit {commit}, on {report['machine']}.",
            *([table(("phase", "minutes"), rows)] if len(rows) > 1 else []),
            ASK_AGAIN,
            fence(QUERY),
        ]
    )
