"""`factory show problem`: every row of a problem is found, in time, and what waits is named; nothing of another is."""

import io
import json
import shutil
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
from books import example, problem, prompt, rewards, rollouts, trace, trained, tree
from rich.console import Console

from deploy import show
from deploy.cli import app
from processors.dataset import Datasets, app_id
from processors.nodes import node_rows
from processors.rows import Place, message_batch
from schemas import messages as m
from schemas.load import load
from schemas.replay import Replay
from schemas.tables import TABLES
from schemas.topics import BY_MESSAGE

NOON = 1_800_000_000
"""s since the epoch."""
weights = m.Weights(
    policy="policy", version=4, parent=3, path="p", sha256="ab", trainer="rl", run="rl", step=2, time=0.0
)
letter = m.DeadLetter(id="d1", stage="verify", topic="traces", input_id="c1b", error="[red]no\x1b[2J", attempt=2)


class Written:
    """Rows, each at a second of its own."""

    def __init__(self, root, first=0):
        self.datasets = Datasets(root)
        self.datasets.create()
        self.rows, self.first = {}, first

    def row(self, second, *messages, sha="s"):
        for message in messages:
            table = BY_MESSAGE[type(message)].table
            offset = self.first + len(self.rows.setdefault(table, []))
            place = Place(
                topic=table, topic_id="u", partition=0, offset=offset, time_ms=int((NOON + second) * 1000), sha=sha
            )
            self.rows[table].append(message_batch(message, place, TABLES[table]))
            if table == "trees":
                self.rows.setdefault("nodes", []).append(node_rows(self.rows[table][-1]))

    def write(self):
        for table, batches in self.rows.items():
            last = {app_id(table, "u", 0): self.first + len(batches) - 1}
            self.datasets.append(table, pa.Table.from_batches(batches, schema=TABLES[table]), last)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Problem p1 has gone all the way, with a second trace that died; p2 has only just begun."""
    root = tmp_path_factory.mktemp("tables") / "data" / "datasets"
    rows = Written(root)
    rows.row(0, problem(1), problem(2))
    rows.row(12.5, msgspec.structs.replace(tree(1), seconds=4.0))
    one = msgspec.structs.replace(trace(1), tree_sha="s")
    rows.row(13, one, msgspec.structs.replace(one, id="c1b"))
    rows.row(14, msgspec.structs.replace(example(1), trace_sha="s"))
    rows.row(15, letter)
    rows.row(20, prompt(1), prompt(2))
    rows.row(28, msgspec.structs.replace(rollouts(1), seconds=6.0))
    rows.row(29, msgspec.structs.replace(rewards(1), rollouts_sha="s"))
    rows.row(30, trained("c1", trainer="sft", step=1))
    rows.row(30.5, trained(1, trainer="rl", step=2))
    rows.row(31, weights)
    rows.row(33, tree(2))
    rows.row(34, m.Filtered(id="f", stage="linearize", input_topic="trees", input_id="t2", why="no correct leaf"))
    rows.write()
    return root.parent


@pytest.fixture
def settings(made):
    return load(environment={}, flags=[f"factory.data={made}"])


@pytest.fixture
def more(made, make_settings):
    """more(second, message, ...) gives settings of a copy of the tables with these rows, too."""

    def add(second, *messages, sha="s"):
        copy = make_settings()
        shutil.copytree(made, copy.factory.data)
        rows = Written(Path(copy.factory.data) / "datasets", first=100)
        rows.row(second, *messages, sha=sha)
        rows.write()
        return copy

    return add


def steps(found):
    return {(one.stage, one.table, one.id): one for one in found.passages}


def test_every_row_of_a_problem_in_order_with_its_times(settings):
    found = show.follow(settings, "p1")
    assert [(one.stage, one.table) for one in found.passages] == [
        ("produce", "problems"),
        ("search", "trees"),
        ("linearize", "traces"),
        ("linearize", "traces"),
        ("verify", "examples"),
        ("verify", "dead_letters"),
        ("prompts", "prompts"),
        ("sample", "rollouts"),
        ("verify", "rewards"),
        ("sft", "training"),
        ("rl", "training"),
        ("rl", "weights"),
    ]
    assert [one.time for one in found.passages] == sorted(one.time for one in found.passages)
    way = steps(found)
    assert (way["search", "trees", "t1"].time, way["search", "trees", "t1"].after) == (NOON + 12.5, 12.5)
    assert way["search", "trees", "t1"].took == 4.0
    assert way["linearize", "traces", "c1"].after == 0.5
    assert way["sample", "rollouts", "g1"].after == 8.0
    assert way["verify", "rewards", "g1"].of == ["g1"]
    assert way["sft", "training", "sft:1"].of == ["c1"]
    assert way["sft", "training", "sft:1"].after == 16.0
    assert way["rl", "training", "rl:2"].after == 1.5
    assert (way["rl", "weights", "4"].of, way["rl", "weights", "4"].after) == (["rl:2"], 0.5)
    assert way["prompts", "prompts", "g1"].after is None
    assert "1 nodes" in way["search", "trees", "t1"].what
    assert "2 of 2 correct" in way["verify", "rewards", "g1"].what
    assert "2 responses, 6 tokens" in way["sample", "rollouts", "g1"].what
    assert found.question == "q"
    assert found.waiting == []


def test_what_waits_is_named_with_its_stage(settings):
    found = show.follow(settings, "p2")
    assert [(one.stage, one.table) for one in found.passages] == [
        ("produce", "problems"), ("prompts", "prompts"), ("search", "trees"), ("linearize", "filtered"),
    ]  # fmt: skip
    assert "no correct leaf" in found.passages[-1].what
    (waiting,) = found.waiting
    assert (waiting.stage, waiting.table, waiting.id, waiting.since) == ("sample", "prompts", "g2", NOON + 20)


def test_a_letter_that_was_sent_again_waits_again(more):
    found = show.follow(more(40, Replay(id="r1", what="sent", topic="dead.letters", row_id="d1", stage="verify")), "p1")
    assert "sent again" in steps(found)["verify", "dead_letters", "d1"].what
    assert [(one.stage, one.id) for one in found.waiting] == [("verify", "c1b")]


def test_what_was_made_of_a_losing_copy_is_marked(more):
    way = steps(show.follow(more(41, msgspec.structs.replace(trace(1), id="c1x", tree_sha="another")), "p1"))
    assert way["linearize", "traces", "c1x"].superseded
    assert not way["linearize", "traces", "c1"].superseded


def test_a_held_out_problem_is_found_by_its_answers(more):
    held = m.Problem(id="held-1", question="2+2", answer="4", source="s")
    refused = m.Filtered(id="h", stage="produce", input_topic="problems", input_id="held-1", why="held out")
    answers = m.Answers(
        id="a",
        asked="x",
        policy="policy",
        version=4,
        sha="ab",
        trainer="rl",
        problem=held,
        texts=["4", "5"],
        verdicts=["correct", "wrong"],
        tokens=[1, 1],
        backtracks=[0, 0],
        finishes=["stop", "stop"],
    )
    found = show.follow(more(50, refused, answers), "held")
    assert found.question == "2+2"
    assert {one.stage: one.what for one in found.passages} == {
        "produce": "left out: held out", "evaluate": "evaluation of v4: 1 of 2 correct",
    }  # fmt: skip
    assert found.waiting == [], "it was never given to the searchers"


def test_people_see_a_table_and_no_control_characters(settings):
    out = io.StringIO()
    Console(file=out, width=140).print(show.render_problem(show.follow(settings, "p1")))
    lines = out.getvalue().splitlines()
    (line,) = (line for line in lines if " t1 " in line)
    assert line.split()[2:9] == ["search", "trees", "t1", "12.5", "s", "4.00", "s"]
    assert "\x1b" not in out.getvalue()
    assert "[red]no" in out.getvalue(), "markup in an error is text"
    assert "31.0 s from the first row to the last" in lines
    out = io.StringIO()
    Console(file=out, width=140).print(show.render_problem(show.follow(settings, "p2")))
    assert "prompts g2 waits for sample, or is in its hand" in out.getvalue()


def test_the_command_prints_it_and_its_json(settings, capsys):
    def asked(*words):
        with pytest.raises(SystemExit) as end:
            app(["show", "problem", *words, "--data", settings.factory.data])
        assert end.value.code == 0
        return capsys.readouterr().out

    shown = json.loads(asked("p1", "--json"))
    assert (shown["id"], shown["answer"], len(shown["passages"])) == ("p1", "a", 12)
    assert shown["passages"][1] == {
        "time": NOON + 12.5, "stage": "search", "table": "trees", "id": "t1", "of": ["p1"], "after": 12.5, "took": 4.0,
        "what": shown["passages"][1]["what"], "superseded": False,
    }  # fmt: skip
    assert "rl:2" in asked("p1")


@pytest.mark.parametrize(
    ("id_", "says"),
    [
        ("zzz", "no problem whose id"),
        ("", "which problem"),
        ("p", "several problems: p1, p2"),
        ("p1' or '1", "no problem"),
    ],
)
def test_an_id_that_names_no_problem_gets_a_hint(settings, id_, says):
    with pytest.raises(show.NotFound, match=says):
        show.follow(settings, id_)
