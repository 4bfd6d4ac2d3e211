"""What a replay changes, case by case, without tables."""

import forest
import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.replay_stages import Held, content, differences, judgement
from processors import linearizer
from schemas.messages import Example, Filtered, Trace
from schemas.search_settings import LinearizeSection
from schemas.settings import Settings

KINDS = [
    LinearizeSection(),
    LinearizeSection(phrases=False),
    LinearizeSection(direct=0, min_wrong=2),
    LinearizeSection(direct_reflects=False),
]


def made(tree, kind):
    return linearizer.traces(tree, "sha", Settings(linearize=KINDS[kind]))


def after(held, changes):
    """What the table holds once the changes are done."""
    rows = {one.id: one for one in held}
    for change in changes:
        if change.what == "made":
            assert change.row_id == change.message.id
            assert change.row_id not in rows, "an id that another content has"
            rows[change.row_id] = Held(change.row_id, change.message.tree_id, content(change.message), True, 1)
        elif change.what in {"replaced", "withdrawn", "restored"}:
            one = rows[change.row_id]
            rows[one.id] = msgspec.structs.replace(one, visible=change.what == "restored", marks=one.marks + 1)
    return list(rows.values())


@settings(deadline=None, max_examples=60)
@given(forest.trees(), st.lists(st.integers(0, len(KINDS) - 1), min_size=1, max_size=5))
def test_after_any_replays_exactly_what_the_last_one_gives_is_visible(tree, kinds):
    held = []
    for kind in kinds:
        today = made(tree, kind)
        held = after(held, differences(today, held))
        wanted = {content(trace) for trace in today if isinstance(trace, Trace)}
        assert {one.content for one in held if one.visible} == wanted
        assert len({one.content for one in held}) == len(held), "the same content twice"
        again = differences(today, held)
        assert {change.what for change in again} <= {"unchanged", "filtered"}


def test_an_id_that_another_content_has_is_not_taken_again():
    tree = forest.example()
    today = [one for one in made(tree, 0) if isinstance(one, Trace)]
    held = [Held(trace.id, trace.tree_id, f"older words {trace.id}", True, 0) for trace in today]
    changes = differences(today, held)
    new = {change.row_id for change in changes if change.what == "made"}
    assert len(new) == len(today)
    assert not new & {one.id for one in held}
    assert [change.row_id for change in differences(today, held) if change.what == "made"] == [
        change.row_id for change in changes if change.what == "made"
    ]


def test_what_becomes_of_a_trace_that_is_judged_again():
    problem = forest.problem()
    passes = Example(
        id="c", tree_id="t", trace_sha="s", problem=problem, arm="direct", text="", backtracks=0, verdict="correct",
        checks=[],
    )  # fmt: skip
    fails = Filtered(id="f", stage="verify", input_topic="traces", input_id="c", why="check failed: length")
    expected = {
        (0, "example"): "unchanged", (0, "withdrawn"): "restored", (0, "filtered"): "made", (0, ""): "made",
        (1, "example"): "withdrawn", (1, "withdrawn"): "unchanged", (1, "filtered"): "unchanged", (1, ""): "filtered",
        (2, "example"): "failed", (2, ""): "failed",
    }  # fmt: skip
    todays = [passes, fails, ValueError("broken")]
    assert {key: judgement("c", todays[key[0]], key[1], 0).what for key in expected} == expected
