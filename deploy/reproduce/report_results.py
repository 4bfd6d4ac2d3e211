"""The report's numbers: what is compared with what, in points, as the dictionary that report.json holds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deploy.reproduce.report_arms import Table
from deploy.reproduce.report_facts import Scored
from deploy.reproduce.report_numbers import Bootstrap, Estimate, Matrix, at_budget
from processors.chat import count_backtracks

SHARES = (
    "pass_at_1", "first_attempt", "self_corrected", "spoiled", "with_backtrack", "truncated", "unparsable",
)  # fmt: skip
"""Given in points (percent)."""
COUNTS = ("tokens", "backtracks")
PAIRS = (
    ("astro_rl", "base"),
    ("astro_rl", "direct_rl"),
    ("astro_sft", "direct_sft"),
    ("direct_rl", "base"),
    ("astro_rl", "astro_sft"),
    ("direct_rl", "direct_sft"),
    ("astro_sft", "base"),
    ("direct_sft", "base"),
    ("best_of_n_sft", "base"),
    ("astro_sft", "best_of_n_sft"),
    ("best_of_n_sft", "direct_sft"),
    ("astro_rl", "best_of_n_sft"),
)
"""The differences reported, first minus second; ablations are compared with astro and direct besides."""
AT_EQUAL_TOKENS = ("base", "direct_sft", "best_of_n_sft", "astro_sft", "direct_rl")
"""Arms that may take as many samples as the tokens of one of ASTRO-RL's responses buy."""


class Boots:
    """One Bootstrap a shape: the same draws wherever the shape is the same."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, ...], Bootstrap] = {}

    def of(self, matrix: Matrix) -> Bootstrap:
        """The draws for a matrix."""
        if matrix.shape not in self._made:
            self._made[matrix.shape] = Bootstrap(*matrix.shape)
        return self._made[matrix.shape]


def arm(table: Table, boots: Boots) -> dict[str, Any]:
    """One arm's entry of report.json."""
    values = table.values
    draws = boots.of(values["pass_at_1"])
    shares = {name: draws.share(values[name]).scaled(100) for name in SHARES}
    counts = {name: draws.mean(values[name]) for name in COUNTS}
    left = draws.ratio(values["left_right"], values["backtracks"])
    leaving = left.scaled(100) if left else None
    every = {**shares, **counts, **({"backtracks_leaving_right": leaving} if leaving else {})}
    kinds = {
        f"{kind}_at_k": {str(k): draws.share(values[name]).scaled(100) for k, name in table.at_k(kind).items() if k > 1}
        for kind in ("pass", "maj")
    }
    return {
        "pass_at_1": shares["pass_at_1"],
        **{name: estimate.mean for name, estimate in every.items() if name != "pass_at_1"},
        **({} if leaving else {"backtracks_leaving_right": None}),
        "intervals": {name: estimate for name, estimate in every.items() if name != "pass_at_1"},
        **kinds,
        "problems": draws.shape[1],
        "seeds": {str(one.seed): per_seed(table, row) for row, one in enumerate(table.cells) if one.seed >= 0},
        **spent(table),
    }


def per_seed(table: Table, row: int) -> dict[str, Any]:
    """One seed's means and what its training cost."""
    means = {name: float(table.values[name][row].mean()) for name in (*SHARES, *COUNTS)}
    return {
        **{name: 100 * value if name in SHARES else value for name, value in means.items()},
        **of_stage(table.name, table.cells[row].spent),
    }


def spent(table: Table) -> dict[str, float]:
    """The means over the seeds of what training cost."""
    each = [of_stage(table.name, one.spent) for one in table.cells if one.seed >= 0]
    names = dict.fromkeys(name for one in each for name in one)
    return {name: float(np.mean([one.get(name) or 0 for one in each])) for name in names}


def of_stage(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Of what a directory spent, the part that this arm's weights come from: without RL for X_sft."""
    return {key: value for key, value in facts.items() if name.endswith("_rl") or not key.startswith("rl_")}


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs to compare among the arms that there are."""
    known = {name for pair in PAIRS for name in pair}
    more = [
        (name, other)
        for name in names
        if name not in known
        for other in (f"astro_{name.rpartition('_')[2]}", f"direct_{name.rpartition('_')[2]}", "base")
    ]
    return [pair for pair in (*PAIRS, *more) if set(pair) <= set(names)]


def compared(one: Table, other: Table) -> tuple[list[int], dict[str, Matrix], dict[str, Matrix]]:
    """The seeds that both have, and their matrices over these."""
    seeds = [seed for seed in one.seeds if other.seeds == (-1,) or seed in other.seeds]
    if one.seeds == (-1,):
        seeds = list(other.seeds)
    return seeds, one.on(seeds), other.on(seeds)


def differences(tables: Mapping[str, Table], boots: Boots, metric: str = "pass_at_1") -> dict[str, Estimate]:
    """The differences of a share in points, by 'A_minus_B'; pairs without a seed in common are left out."""
    found = {}
    for first, second in pairs(list(tables)):
        seeds, mine, others = compared(tables[first], tables[second])
        if seeds:
            delta = mine[metric] - others[metric]
            found[f"{first}_minus_{second}"] = boots.of(delta).mean(delta).scaled(100)
    return found


def equal_tokens(tables: Mapping[str, Table], boots: Boots, arm_name: str = "astro_rl") -> dict[str, Any]:
    """What the other arms give when they may sample as often as one response of `arm_name` costs.

    'maj' is the majority over the samples, 'pass' the best of them, which needs a verifier; None where the tokens buy
    less than one sample or more than were taken.
    """
    if arm_name not in tables:
        return {}
    found: dict[str, Any] = {"arm": arm_name, "tokens": float(tables[arm_name].values["tokens"].mean())}
    for name in AT_EQUAL_TOKENS:
        if name not in tables:
            continue
        seeds, mine, others = compared(tables[arm_name], tables[name])
        if not seeds:
            continue
        length, budget = float(others["tokens"].mean()), float(mine["tokens"].mean())
        entry: dict[str, Any] = {"samples": budget / max(length, 1e-9)}
        for kind in ("maj", "pass"):
            values = at_budget({k: others[key] for k, key in tables[name].at_k(kind).items()}, length, budget)
            entry[kind] = entry[f"{arm_name}_minus_{kind}"] = None
            if values is not None:
                delta = mine["pass_at_1"] - values
                entry[kind] = boots.of(values).share(values).scaled(100)
                entry[f"{arm_name}_minus_{kind}"] = boots.of(delta).mean(delta).scaled(100)
        found[name] = entry
    return found


def examples(tables: Mapping[str, Table]) -> dict[str, Any]:
    """A win and a loss: the problem where ASTRO-RL gains most on Direct-RL by going back, and where it loses most."""
    if not {"astro_rl", "direct_rl"} <= set(tables):
        return {}
    chosen: dict[str, tuple[tuple[float, float, str], dict[str, Any]]] = {}
    mine, others = tables["astro_rl"], tables["direct_rl"]
    for cell in mine.cells:
        other = next((one for one in others.cells if one.seed == cell.seed), None)
        for key, scored in cell.scored.items():
            if other is None or key not in other.scored:
                continue
            control = other.scored[key]
            gap = scored.pass_at_1 - control.pass_at_1
            corrected = cell.values["self_corrected"][key]
            if gap > 0 and corrected > 0:
                _keep(chosen, "win", (gap + corrected, corrected, key), cell.seed, scored, control)
            if gap < 0:
                _keep(chosen, "loss", (-gap, scored.backtracks, key), cell.seed, scored, control)
    return {name: entry for name, (_, entry) in chosen.items()}


def _keep(
    chosen: dict[str, tuple[tuple[float, float, str], dict[str, Any]]],
    name: str,
    rank: tuple[float, float, str],
    seed: int,
    astro: Scored,
    direct: Scored,
) -> None:
    if name in chosen and chosen[name][0] >= rank:
        return
    wins = name == "win"
    chosen[name] = (
        rank,
        {
            "seed": seed,
            "problem": astro.problem.id,
            "question": astro.problem.question,
            "answer": astro.problem.answer,
            "astro_rl_pass_at_1": 100 * astro.pass_at_1,
            "direct_rl_pass_at_1": 100 * direct.pass_at_1,
            "astro_rl": _pick(astro, right=wins),
            "direct_rl": _pick(direct, right=not wins),
        },
    )


def _pick(scored: Scored, *, right: bool) -> str:
    """A response with that verdict, with a backtrack if one has; any response where none has the verdict."""
    fitting = [t for t, v in zip(scored.texts, scored.verdicts, strict=True) if (v == "correct") == right]
    return max(fitting or scored.texts, key=lambda text: min(1, count_backtracks(text)))
