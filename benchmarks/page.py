"""docs/benchmarks.md, made from benchmarks/results/*.json so that no number in it is typed.

`python -m benchmarks.page` writes it.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
TARGETS = {
    "ours_over_ceiling_tokens": "at least 0.85",
    "ours_over_lockstep_trees": "at least 0.95",
    "ours_over_lockstep_mixed_trees": "at least 1.3",
    "ours_over_one_tree_trees": "at least 3",
    "ours_over_one_call_trees": "at least 10",
    "full_over_adaptive_tokens_per_valid_tree": "at least 4",
    "adaptive_minus_full_solved_points": "at least -2",
    "adaptive_minus_best_of_n_solved_points": "at least 0",
    "sft_ours_over_trl_tokens": "at least 1.5",
    "rl_ours_over_trl_samples": "at least 2",
    "sink_over_ceiling_rows": "at least 0.5",
    "sql_command_s": "less than 1",
    "ledger_command_s": "less than 5",
    "sft_model_flops_over_peak": "at least 0.45",
    "worst_cold_page_s": "less than 1",
    "worst_first_page_s": "less than 1",
    "worst_warm_page_s": "less than 1",
    "worst_first_page_cpu_s": "less than 0.5",
    "pages_over_limit": "0",
}
"""What was asked for, by ratio."""
HEAD = """# Benchmarks

Made from `benchmarks/results/*.json` by `python -m benchmarks.page`; measured by `make bench`. A machine that others
share gives other speeds on another day, so compare ratios: both sides of one were measured in the same run. What each
variant means stands at the top of `benchmarks/NAME.py`.
"""


def main() -> None:
    """Write the page."""
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    PAGE.write_text("\n".join([HEAD, *(section(result) for result in results)]))
    print(f"{PAGE.name}: {len(results)} results")


def section(result: dict[str, Any]) -> str:
    """One benchmark's tables."""
    runs = f"{result['runs']} run{'s' * (result['runs'] != 1)}"
    lines = [f"## {result['name']}", "", f"Commit {result['commit']}, {result['machine']}, {runs}.", ""]
    lines += [f"* {note}" for note in result["notes"]]
    lines += ["", "| ratio | measured | asked |", "|---|---|---|"]
    lines += [f"| {name} | {value:.2f} | {TARGETS.get(name, '')} |" for name, value in result["ratios"].items()]
    lines += ["", "| value | mean | lowest | highest |", "|---|---|---|---|"]
    for name, spread in result["values"].items():
        lines.append(f"| {name} | " + " | ".join(number(spread[key]) for key in ("mean", "min", "max")) + " |")
    return "\n".join([*lines, ""])


def number(value: float) -> str:
    """Three digits that count, thousands separated."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
