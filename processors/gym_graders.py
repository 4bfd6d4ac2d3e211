"""Which of reasoning-gym's own scorers may judge an answer: many of its problems have more than one right answer.

Of the generators that bring a scorer, those whose module evaluates no text (no eval, parse_expr, literal_eval, ...: a
test reads the modules) and whose scorer gives the gold answer full marks after its entry went through JSON. They run in
the killable process only (grading_worker.py). All others are graded by our rules.
"""

import msgspec

SCORED = frozenset(
    (
        *("ab", "advanced_geometry", "calendar_arithmetic", "circuit_logic", "coin_flip", "color_cube_rotation"),
        *("complex_arithmetic", "cryptarithm", "dice", "emoji_mystery", "family_relationships", "futoshiki"),
        *("fraction_simplification", "game_of_life", "game_of_life_halting", "jugs", "kakurasu", "knight_swap"),
        *("knights_knaves", "letter_jumble", "manipulate_matrix", "mini_sudoku", "needle_haystack", "number_format"),
        *("palindrome_generation", "palindrome_partitioning", "path_star", "polynomial_equations", "power_function"),
        *("prime_factorization", "quantum_lock", "rectangle_count", "self_reference", "sentence_reordering"),
        *("shortest_path", "sokoban", "spell_backward", "sudoku", "survo", "time_intervals", "tower_of_hanoi"),
        *("tsumego", "word_sorting", "zebra_puzzles"),
    )
)
"""Generators by reasoning-gym's names."""


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """The metadata of a problem that a scorer judges."""

    generator: str
    entry: dict[str, object]
    """The generator's entry: question, answer, metadata."""


def may_score(metadata: str) -> bool:
    """Whether this metadata names a scorer that is allowed here; false for anything malformed."""
    try:
        return msgspec.json.decode(metadata, type=Scored).generator in SCORED
    except (msgspec.MsgspecError, UnicodeError):
        return False
