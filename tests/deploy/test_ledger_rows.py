"""A row that was taken out of a table: the ledger fails and names it, for each table; and what is no loss closes."""

from pathlib import Path

import books as b
import pytest
from deltalake import DeltaTable

from deploy import ledger
from deploy.feeding import save_offsets
from processors import kafka
from processors.dataset import Datasets
from schemas import messages as m
from schemas.replay import Replay
from schemas.tables import TABLES
from schemas.topics import BY_NAME, TOPICS

ROWS = {
    "problems": "p0", "trees": "t0", "nodes": "t0", "traces": "c0", "examples": "c0", "prompts": "g0", "rollouts": "g0",
    "rewards": "g0", "weights": "1", "answers": "a0", "evaluations": "e", "training": "rl:1", "filtered": "f",
    "dead_letters": "dsearchp2", "replays": "y",
}  # fmt: skip
"""A row of each table."""
NAMED = ROWS | {"trees": "p0", "filtered": "p1", "dead_letters": "p2", "weights": "v1"}
"""The id that is missed without the topic: its row's own, or that of the input which has lost its answer."""
DONE_AGAIN = {"answers", "evaluations", "replays"}
"""Not missed without the topic: who wrote it sees that it is not done, and does it again."""
GROUPS = (("search", "problems"), ("linearize", "trees"), ("verify", "traces"), ("sample", "prompts"),
          ("verify", "rollouts"), ("rl", "rewards"))  # fmt: skip


def version(number, trainer="sft"):
    return m.Weights(
        policy="policy", version=number, parent=number - 1, path="", sha256=f"sha{number}", trainer=trainer,
        run=trainer * (number > 0), step=int(number > 0),
    )  # fmt: skip


def evaluation():
    return m.Evaluation(
        id="e", policy="policy", version=1, sha="sha1", trainer="sft", source="all", problems=1, asked="x", samples=1,
        greedy=False, pass_at_1=1.0, low=1.0, high=1.0, tokens=1.0, backtracks=0.0, unparsable=0.0,
    )  # fmt: skip


def answers():
    return m.Answers(
        id="a0", asked="x", policy="policy", version=1, sha="sha1", trainer="sft", problem=b.problem(9), texts=[],
        verdicts=[], tokens=[], backtracks=[], finishes=[],
    )  # fmt: skip


def world():
    """Every table has a row, and everything that went in has an answer or a reason."""
    one = m.Rollout(token_ids=[1], logprobs=[0.0], spans=[m.Span(version=1, sha="", start=0, stop=1)], finish="stop",
                    text="")  # fmt: skip
    group = m.RolloutGroup(id="g0", problem=b.problem(0), round=0, prompt_ids=[], rollouts=[one])
    paid = m.RewardGroup(**{name: getattr(b.rewards(0, 1), name) for name in m.RewardGroup.__struct_fields__} | {
        "rollouts": [one]})  # fmt: skip
    tree = b.tree(0)
    nodes = [*tree.nodes, m.Node(id=1, parent=0, depth=1, text="", token_ids=[])]
    tree = m.Tree(**{name: getattr(tree, name) for name in m.Tree.__struct_fields__} | {"nodes": nodes})
    trace, example = b.trace(7), b.example(7)  # a second trace of the same tree: it has an answer without the first
    trace = m.Trace(**{name: getattr(trace, name) for name in m.Trace.__struct_fields__} | {"tree_id": "t0"})
    return [
        version(0, "base"), version(1), version(2, "rl"), *map(b.problem, range(3)), tree, b.dead("search", "p2"),
        m.Filtered(id="f", stage="search", input_topic="problems", input_id="p1", why="too long"), b.trace(0), trace,
        b.example(0), example, b.prompt(0), group, paid, b.trained(0), b.trained("c0", trainer="sft"), answers(),
        evaluation(), Replay(id="y", what="made", topic="traces", row_id="c0", stage="linearize"),
    ]  # fmt: skip


def bring(settings, send):
    """Put the world into topics and tables; the stages have passed all of it."""
    send(*world())
    for group, topic in GROUPS:
        b.commit(settings, group, topic)
    b.sunk(settings, "(select count(*) from evaluations) = 1 and (select count(*) from dead_letters) >= 1")


def delete(settings, name):
    """Take the row out; the version of the table that had it."""
    table = DeltaTable(str(Path(settings.factory.data) / "datasets" / name))
    before = table.version()
    column = {"nodes": "id = 1 and tree_id", "weights": "version"}.get(name, "id")
    value = ROWS[name] if name == "weights" else f"'{ROWS[name]}'"
    assert table.delete(f"{column} = {value}")["num_deleted_rows"] == 1
    return before


def put_back(settings, name, before):
    DeltaTable(str(Path(settings.factory.data) / "datasets" / name)).restore(before)


@pytest.fixture
def quick(factory_settings):
    settings = factory_settings("sink.flush_s=0.1")
    Datasets(Path(settings.factory.data) / "datasets").create()
    return settings


def test_a_row_taken_out_of_every_table_is_named_by_the_sinks_accounts(quick, send_all):
    producer = kafka.producer(quick)
    producer.send("problems", b"no message").get(5)
    producer.close()
    send_all(b.problem(0))  # fed again
    bring(quick, send_all)
    b.sunk(quick, "(select count(*) from dead_letters) = 2")
    books = ledger.compute(quick)
    assert books.closes, books.missing()
    problems = next(line for line in books.sinks if line.input == "problems")
    assert (problems.taken, problems.out, problems.dead, problems.in_flight) == (5, 4, 1, 0)
    for name in TABLES:
        delete(quick, name)
    books = ledger.compute(quick)
    assert not books.closes
    missing = {line.output: line.missing for line in books.sinks}
    assert missing.pop("nodes") == [], "its tree is gone, too"
    assert missing == {name: [key] for name, key in ROWS.items() if name != "nodes"}


@pytest.mark.slow
def test_one_row_taken_out_of_one_table_is_named(quick, send_all):
    bring(quick, send_all)
    for name, missing in each_taken_out(quick):
        assert any(where.endswith(f"-> {name}") and ROWS[name] in ids for where, ids in missing.items()), name


@pytest.mark.slow
def test_and_without_the_topics_wherever_it_is_not_made_again(quick, send_all, make_settings):
    bring(quick, send_all)
    assert save_offsets(quick, wait_s=10)
    settings = make_settings()  # the embedded broker of this data directory ...
    kafka.address_file(settings).unlink(missing_ok=True)  # ... which nobody finds
    for name, missing in each_taken_out(settings):
        assert bool(missing) == (name not in DONE_AGAIN)
        assert name in DONE_AGAIN or any(NAMED[name] in ids for ids in missing.values())


def each_taken_out(settings):
    """For each table: its name and what is missing while its row is out."""
    assert ledger.compute(settings).closes
    for name in TABLES:
        before = delete(settings, name)
        books = ledger.compute(settings)
        assert books.closes == (not books.missing())
        yield name, books.missing()
        put_back(settings, name, before)
    assert ledger.compute(settings).closes


def test_an_answer_whose_input_will_be_made_again_is_no_loss(quick, send_all):
    """An embedded broker took g0's rollouts with it, after their rewards had reached the table."""
    group = b.rewards(0)
    send_all(b.problem(0), b.prompt(0), group)
    books = ledger.compute(quick)
    assert books.closes, "the prompt waits: it is sampled again"
    b.commit(quick, "sample", "prompts")
    books = ledger.compute(quick)
    assert books.missing() == {"sample prompts -> rollouts": ["g0"], "rollouts (named in rewards)": ["g0"]}


def test_steps_and_versions_without_a_row_are_named(quick, send_all):
    send_all(version(0, "base"), b.trained("c0", trainer="sft", step=3), m.Weights(
        policy="policy", version=4, parent=3, path="", sha256="sha4", trainer="sft", run="sft", step=3))  # fmt: skip
    missing = ledger.compute(quick).missing()
    assert missing == {
        "training (named in training and weights)": ["sft:1", "sft:2"],
        "weights (named in trees, rewards, training, evaluations)": ["v3"],
    }


def test_what_sft_and_the_evaluator_have_not_done_waits(quick, send_all):
    send_all(*world(), b.example(5), version(3, "rl"), m.Filtered(
        id="x", stage="evaluate", input_topic="weights", input_id="3:sha3", why="not evaluated"))  # fmt: skip
    books = ledger.compute(quick)
    sft, evaluated = b.stage(books, "sft"), b.stage(books, "evaluate")
    assert (sft.taken, sft.out, sft.in_flight, sft.lost) == (3, 1, 2, 0)
    assert (evaluated.taken, evaluated.out, evaluated.filtered, evaluated.in_flight) == (4, 1, 1, 2)


def test_rollouts_add_up_by_source_and_difficulty(quick, send_all):
    def group(number, difficulty):
        problem = m.Problem(id=f"p{number}", question="q", answer="a", source="s", difficulty=difficulty)
        fields = {name: getattr(b.rollouts(number), name) for name in m.RolloutGroup.__struct_fields__}
        return m.RolloutGroup(**fields | {"problem": problem})

    stale = b.filtered("rl", "g2", "stale", rollouts=2, tokens=6)
    send_all(*map(b.problem, range(4)), *map(b.prompt, range(4)), *(group(n, 1.0 + n // 2) for n in range(4)))
    send_all(*map(b.rewards, range(4)), b.trained(0, 1), stale)
    books = ledger.compute(quick)
    easy, hard = books.rl_by
    assert (easy.source, easy.difficulty, easy.trained.rollouts, easy.stale.rollouts) == ("s", 1.0, 4, 0)
    assert (hard.difficulty, hard.stale, hard.in_flight.rollouts) == (2.0, ledger.Amount(rollouts=2, tokens=6), 2)
    for part in ("generated", "trained", "stale", "filtered", "failed", "in_flight", "lost"):
        for unit in ("rollouts", "tokens"):
            total = sum(getattr(getattr(line, part), unit) for line in books.rl_by)
            assert total == getattr(getattr(books.rl, part), unit)
    assert books.closes


def test_every_topic_has_its_place_in_the_order_of_reading():
    from deploy.ledger_facts import ORDER
    from deploy.ledger_names import NAMES

    place = {BY_NAME[name].table: at for at, line in enumerate(ORDER) for name in line}
    assert set(place) == {topic.table for topic in TOPICS}
    assert all(place[name.by] < place[name.of] for name in NAMES)
    assert all(place[step.output] < place[step.input] for step in ledger.STEPS)
