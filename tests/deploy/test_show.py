"""`factory show` on real tables: each node with what the search knew, each segment with its node, each trace marked."""

import io
import json
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
from rich.console import Console

from deploy import show
from deploy.cli import app
from processors.dataset import Datasets, app_id
from processors.rows import Place, message_batch
from schemas import messages as m
from schemas.tables import TABLES
from schemas.topics import BY_MESSAGE

PROBLEM = m.Problem(id="problem-1", question="Use [red]2[/red] and 3\nto make 6", answer="2*3", source="countdown")


def node(number, parent, text, **other):
    return m.Node(id=number, parent=parent, depth=0, text=text, token_ids=[], **other)


NODES = [
    node(0, -1, ""),
    node(1, 0, "Let us add\n\n", q=0.1, visits=3, prior=0.75, rollouts=4, rollouts_correct=1, merged=2),
    node(2, 1, "Answer: 2+3", terminal=True, verdict="wrong", answer="2+3", q=0.0),
    node(3, 0, "Let us multiply " + "x" * 200, q=0.9, visits=5),
    node(
        4,
        3,
        "Answer: 2*3 \x1b[2J",
        terminal=True,
        verdict="correct",
        answer="2*3",
        q=1.0,
        cut=True,
        votes=8,
        votes_yes=7,
    ),
    node(5, 0, "Let us see", adopted=True),
]


def tree(id_="abcdef01", nodes=NODES):
    return m.Tree(
        id=id_,
        problem=PROBLEM,
        nodes=nodes,
        policy_version=2,
        policy_sha="",
        seed=0,
        iterations=8,
        generated_tokens=1234,
        prompt_tokens=0,
        requests=0,
        seconds=1.5,
        solved=True,
    )


TRACE = m.Trace(
    id="trace-1",
    tree_id="abcdef01",
    tree_sha="s",
    problem=PROBLEM,
    arm="search",
    walk=[0, 1, 2, 0, 3, 4],
    segments=[
        m.Segment(kind="step", node=1, text="Let us add"),
        m.Segment(kind="reflection", node=2, text="But wait, are we right?"),
        m.Segment(kind="verdict", node=2, text="I'm not sure."),
        m.Segment(kind="jump", node=0, text="Let's go back to where we [began]"),
        m.Segment(kind="step", node=3, text="Let us multiply instead"),
        m.Segment(kind="step", node=4, text="Answer: 2*3 \x1b[2J"),
    ],
    text="",
    backtracks=1,
    wrong_answers=["2+3"],
    rewriter="model",
    rewrites=3,
    fallbacks=2,
    fallback_reasons=["numbers", "numbers"],
)
DIRECT = msgspec.structs.replace(TRACE, id="direct-1", arm="direct", walk=[0, 3, 4], backtracks=0, wrong_answers=[])
OTHER = msgspec.structs.replace(TRACE, id="other-1", tree_sha="another copy's")


def drawn(renderable, *, colour=False):
    out = io.StringIO()
    Console(file=out, width=160, force_terminal=colour, color_system="standard" if colour else None).print(renderable)
    return out.getvalue()


@pytest.fixture
def settings(make_settings):
    made = make_settings()
    datasets = Datasets(Path(made.factory.data) / "datasets")
    datasets.create()
    for messages in ([tree(), tree("abc999")], [TRACE, OTHER, DIRECT], [PROBLEM]):
        table = BY_MESSAGE[type(messages[0])].table
        batches = [
            message_batch(
                one,
                Place(topic=table, topic_id="u", partition=0, offset=at, time_ms=0, sha="s"),
                TABLES[table],
            )
            for at, one in enumerate(messages)
        ]
        rows = pa.Table.from_batches(batches, schema=TABLES[table])
        datasets.append(table, rows, {app_id(table, "u", 0): len(messages) - 1})
    return made


def test_a_tree_is_drawn_with_its_best_path_marked(settings):
    text = drawn(show.tree(settings, "abcdef01"))
    lines = {line.split("#")[1][0]: line for line in text.splitlines() if "#" in line}
    assert sorted(lines) == ["1", "2", "3", "4", "5"]
    assert "Q=0.10 N=3 p=0.75 R=1/4 merged=2" in lines["1"]
    assert "wrong 2+3" in lines["2"]
    assert [number for number, line in lines.items() if "★" in line] == ["3", "4"]
    assert "…" in lines["3"]
    assert "cut" in lines["4"]
    assert "votes 7/8" in lines["4"]
    assert [number for number, line in lines.items() if "adopted" in line] == ["5"]
    assert "Use [red]2[/red] and 3" in text, "markup in a question is text"


def test_control_characters_do_not_reach_the_terminal(settings):
    assert "\x1b" not in drawn(show.tree(settings, "abcdef01"))
    assert "\x1b[2J" not in drawn(show.tree(settings, "abcdef01"), colour=True)


def test_verdicts_have_colours(settings):
    text = drawn(show.tree(settings, "abcdef01"), colour=True)
    assert "\x1b[1;32m  correct" in text
    assert "\x1b[1;31m  wrong" in text


def test_a_trace_shows_its_segments_in_their_colours(settings):
    text = drawn(show.trace(settings, "trace-1"), colour=True)
    assert "\x1b[33mBut wait, are we right?" in text
    assert "\x1b[35mI'm not sure." in text
    assert "\x1b[1;36mLet's go back to where we [began]" in text
    assert "0 → 1 → 2 ↩ 0 → 3 → 4" in text


def test_the_walks_that_became_traces_are_marked_in_their_tree(settings):
    text = drawn(show.tree(settings, "abcdef01"))
    assert "{A} trace direct-1 direct: 0 → 3 → 4" in text
    assert "{B} trace trace-1 search: 0 → 1 → 2 ↩ 0 → 3 → 4" in text
    assert "other-1" not in text, "made of another copy, whose nodes are others"
    marks = {line.split("#")[1][0]: line.partition("{")[2] for line in text.splitlines() if "#" in line}
    assert marks == {"1": "B}", "2": "B}", "3": "A B}", "4": "A B}", "5": ""}
    assert "trace " not in drawn(show.tree(settings, "abc999"))


def test_each_segment_of_a_trace_stands_beside_its_node(settings):
    lines = drawn(show.trace(settings, "trace-1")).splitlines()

    column = next(line.index("#1 depth") for line in lines if "#1 depth" in line)

    def beside(said):
        at = next(at for at, line in enumerate(lines) if said in line)
        return " ".join(line[column:].strip() for line in lines[at : at + 3]).strip()

    assert beside("Let us add").startswith("#1 depth 0 Q=0.10 N=3 p=0.75 R=1/4")
    assert "rewritten" not in beside("Let us add")
    assert beside("But wait, are we right?").startswith("reflection #2")
    assert beside("I'm not sure").startswith("verdict #2")
    assert "wrong 2+3" in beside("But wait, are we right?")
    assert beside("Let's go back").startswith("↩ jump #0 root")
    assert "rewritten" in beside("Let us multiply instead")
    assert "votes 7/8" in beside("Answer: 2*3 ")
    text = "\n".join(lines)
    assert "3 steps for the model to rewrite, 2 kept their own words (2 numbers)" in text
    assert "wrong answers 2+3" in text
    assert "\x1b" not in text


def test_a_trace_of_another_copy_of_its_tree_borrows_no_nodes(settings):
    assert show.find_trace(settings, "other-1").nodes == []
    text = drawn(show.trace(settings, "other-1"))
    assert "its tree is not in the table" in text
    assert "Q=" not in text


def test_json_has_everything(settings, capsys):
    def asked(*words):
        with pytest.raises(SystemExit):
            app([*words, "--data", settings.factory.data, "--json"])
        return json.loads(capsys.readouterr().out)

    shown = asked("show", "tree", "abcdef01")
    assert (shown["id"], len(shown["nodes"])) == ("abcdef01", 6)
    assert [(one["mark"], one["id"], one["walk"]) for one in shown["traces"]] == [
        ("A", "direct-1", [0, 3, 4]), ("B", "trace-1", [0, 1, 2, 0, 3, 4]),
    ]  # fmt: skip
    shown = asked("show", "trace", "trace-1")
    assert (shown["backtracks"], shown["fallbacks"]) == (1, 2)
    assert [node["id"] for node in shown["nodes"]] == [0, 1, 2, 3, 4]


def test_the_beginning_of_an_id_is_enough_when_it_is_one(settings):
    assert show.find_tree(settings, "abcd").id == "abcdef01"
    found = show.find_trace(settings, "tr")
    assert msgspec.convert({name: getattr(found, name) for name in m.Trace.__struct_fields__}, m.Trace) == TRACE
    assert show.find_problem(settings, "problem") == PROBLEM
    assert "2*3" in drawn(show.render_problem(PROBLEM))


@pytest.mark.parametrize(("id_", "says"), [("zzz", "factory sql"), ("", "factory sql"), ("ab' or '1", "factory sql")])
def test_an_unknown_id_gets_a_hint(settings, id_, says):
    with pytest.raises(show.NotFound, match=says):
        show.find_tree(settings, id_)


def test_an_ambiguous_beginning_names_the_candidates(settings):
    with pytest.raises(show.NotFound, match=r"several trees: abc999, abcdef01"):
        show.find_tree(settings, "abc")
    with pytest.raises(show.NotFound, match="several trees"):
        show.find_tree(settings, "problem-1")


def test_the_best_path_without_a_correct_leaf_follows_the_visits():
    assert show.best_path(NODES) == [0, 3, 4]
    assert show.best_path(NODES[:4]) == [0, 3]
    assert show.best_path([]) == []


def test_a_tree_with_wild_parents_is_drawn_all_the_same():
    wild = [node(0, 1, "a"), node(1, 0, "b", terminal=True, verdict="correct"), node(2, 99, "c")]
    assert "c" in drawn(show.render_tree(tree(nodes=wild)))
    assert show.best_path(wild) == [0, 1]
