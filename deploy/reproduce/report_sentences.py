"""The report's sentences, made from its numbers: a result that is not there is said as plainly as one that is."""

from collections.abc import Mapping
from typing import Any

from deploy.reproduce.report_plots import label

Report = Mapping[str, Any]

GAIN, ADVANTAGE, MOST = 16.0, 3.0, 50.0
"""What the experiment was asked to reach, in points: over the base, over the control, share of answers that go back."""


def spread(one: Mapping[str, float] | None, digits: int = 1) -> str:
    """'52.3 (50.1 to 54.6)'."""
    if one is None:
        return "-"
    return f"{one['mean']:.{digits}f} ({one['low']:.{digits}f} to {one['high']:.{digits}f})"


def duel(report: Report, first: str, second: str) -> str:
    """Who wins, by the interval of the difference; '' where it was not measured."""
    one = report["differences"].get(f"{first}_minus_{second}")
    return "" if one is None else f"{contest(one, label(first), label(second))}."


def contest(one: Mapping[str, float], first: str, second: str) -> str:
    """A difference in words, without a stop."""
    size = f"{abs(one['mean']):.1f} points (95 % interval of the difference {one['low']:+.1f} to {one['high']:+.1f})"
    if one["low"] > 0:
        return f"{first} beats {second} by {size}"
    if one["high"] < 0:
        return f"{first} loses to {second} by {size}"
    if one["low"] == one["high"] == 0:
        return f"{first} equals {second} on every problem"
    if abs(one["mean"]) < 0.05:
        return f"{first} cannot be told apart from {second}: they differ by {size}"
    side = "above" if one["mean"] > 0 else "below"
    return f"{first} cannot be told apart from {second}: it lies {side} it by {size}"


def verdicts(report: Report) -> list[str]:
    """ASTRO against its controls."""
    pairs = (
        ("astro_rl", "base"), ("astro_rl", "direct_rl"), ("astro_sft", "direct_sft"), ("astro_sft", "best_of_n_sft"),
        ("astro_rl", "astro_sft"), ("direct_rl", "direct_sft"), ("direct_rl", "base"),
    )  # fmt: skip
    return [sentence for pair in pairs if (sentence := duel(report, *pair))]


def targets(report: Report) -> list[tuple[str, str, str, str]]:
    """(what, asked, measured, reached) of what the experiment was to reach."""
    rows = []
    for other, wanted in (("base", GAIN), ("direct_rl", ADVANTAGE)):
        if one := report["differences"].get(f"astro_rl_minus_{other}"):
            what = f"ASTRO-RL minus {label(other)}, points"
            rows.append((what, f"at least {wanted:.0f}", spread(one), _yes(one["mean"] >= wanted)))
    if arm := report["arms"].get("astro_rl"):
        share = arm["with_backtrack"]
        rows.append(("ASTRO-RL's answers that go back, %", "most", f"{share:.1f}", _yes(share > MOST)))
    return rows


def _yes(reached: bool) -> str:
    return "reached" if reached else "not reached"


def err_first(report: Report) -> list[str]:
    """Whether ASTRO learns to err first in order to correct itself."""
    arms, firsts = report["arms"], report["differences_first_attempt"]
    if "astro_rl" not in arms:
        return []
    one = arms["astro_rl"]
    final, first = one["pass_at_1"]["mean"], one["first_attempt"]
    text = f"ASTRO-RL's first stated answer is right in {first:.1f} %, its last one in {final:.1f} %"
    said = [f"{text}: it corrects {one['self_corrected']:.1f} % and spoils {one['spoiled']:.1f} %."]
    if (left := one["backtracks_leaving_right"]) is not None:
        said.append(f"Of its backtracks {left:.1f} % leave an answer that was right.")
    said += [
        f"On first attempts alone {contest(difference, 'ASTRO-RL', label(other))}."
        for other in ("direct_rl", "astro_sft", "base")
        if (difference := firsts.get(f"astro_rl_minus_{other}"))
    ]
    before = firsts.get("astro_rl_minus_astro_sft")
    if before is not None:
        if before["high"] < 0:
            said.append("So RL made its first attempts worse: it does learn to err first.")
        elif before["low"] > 0:
            said.append("So RL made its first attempts better: it does not learn to err first.")
        else:
            said.append("So RL changed its first attempts by no amount that can be told from none.")
    return said


def at_equal_tokens(report: Report) -> list[str]:
    """ASTRO-RL against sampling the others as often as its tokens buy."""
    equal = report["equal_tokens"]
    said = []
    for name, one in equal.items():
        if not isinstance(one, dict):
            continue
        text = f"One response of ASTRO-RL ({equal['tokens']:.0f} tokens) costs {one['samples']:.1f} of {label(name)}'s"
        if one["maj"] is None:
            why = "less than one" if one["samples"] < 1 else f"more than the {report['plan']['samples']} taken"
            said.append(f"{text}: {why}, so there is nothing to compare.")
            continue
        against = [
            contest(one[f"astro_rl_minus_{kind}"], "it", f"{words} ({one[kind]['mean']:.1f})")
            for kind, words in (("maj", "their majority"), ("pass", "the best of them, which needs a verifier"))
        ]
        said.append(f"{text}; {against[0]}; {against[1]}.")
    return said


def correlated(report: Report) -> str:
    """Pearson's r in a sentence."""
    one = report["correlation"]
    if one["pearson_r"] is None:
        return f"Backtracks against accuracy: no r, with {one['n']} checkpoints of ASTRO or no spread among them."
    return (
        f"Backtracks against accuracy over {one['n']} checkpoints of ASTRO (all seeds, SFT's last version and RL's): "
        f"Pearson's r = {one['pearson_r']:.2f} ({one['low']:.2f} to {one['high']:.2f}, as if the checkpoints were "
        "independent, which they are not). The paper: 0.82 to 0.85. A correlation along training is no cause: both "
        "change with the steps."
    )


def uncertainty(report: Report) -> str:
    """How the intervals were made."""
    boot = report["bootstrap"]
    seeds = boot["seeds"]
    text = f"Intervals: 95 %, paired bootstrap over {boot['problems']:,} problems"
    if len(seeds) > 1:
        return (
            f"{text} and {len(seeds)} seeds, {boot['resamples']:,} resamples; the same draws in every arm. "
            f"{len(seeds)} seeds are few: of another seed's luck the intervals say little."
        )
    return (
        f"{text}, {boot['resamples']:,} resamples; the same draws in every arm. There is one seed: the intervals say "
        "nothing of what another seed would give."
    )


def search_cost(report: Report) -> list[str]:
    """What the searches cost, a sentence a directory and strategy."""
    said = []
    for name, rows in report["search"].items():
        for row in rows:
            trees = max(1, row["trees"])
            said.append(
                f"{name} ({row['strategy']}): {row['trees']:,} problems, {row['solved']:,} solved, {row['tokens']:,} "
                f"tokens generated ({row['tokens'] / trees:,.0f} a problem), {row['requests']:,} requests."
            )
    return said


def clean(report: Report) -> str:
    """Whether a test problem was trained on."""
    count = report["trained_on_test_problems"]
    if count:
        return f"WARNING: {count} test problems are among what was trained on, by their text: the results are void."
    return "No test problem is among what was trained on, by its text (asked of the tables)."
