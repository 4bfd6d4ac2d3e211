"""The model as rewriter: one batch a tree, each place once, every word still tied to its node, failures counted."""

import asyncio
import json
import random

import forest
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors import chat
from processors.grading import Grader
from processors.linearizer import traces
from processors.policy import Aborted, Completion, EngineDied
from processors.rewriter import Place, Rewriter, asking, only_answers, tail
from processors.verifier import judge
from schemas.messages import Example, Trace
from schemas.search_settings import LinearizeSection
from schemas.settings import Settings

MODEL = Settings(linearize=LinearizeSection(rewriter="model", direct=1, search=4, max_wrong=3, positive_share=0.7))


GRADER = Grader(Settings())  # numbers only: it starts no process


class Letters:
    """A tokenizer of one token a character, whose chat template is JSON."""

    instruct = True

    def conversation_ids(self, turns):
        return self.encode(json.dumps(turns))

    def encode(self, text):
        return [ord(char) for char in text]


def turns(request):
    return json.loads("".join(map(chr, request.prompt_ids)))


def asked_step(request):
    return turns(request)[-1]["content"].rsplit("Next step:\n", 1)[1]


class Scripted:
    """An engine that says say(step, seed) to each request, at once; remembers the batches."""

    def __init__(self, say, finish="stop"):
        self.say, self.finish, self.batches = say, finish, []

    async def generate_many(self, requests):
        self.batches.append(list(requests))
        return [
            Completion(
                token_ids=[], logprobs=[], text=self.say(asked_step(request), request.seed), finish=self.finish,
                version=0, sha="w",
            )
            for request in requests
        ]  # fmt: skip


def good(step, _seed):
    return f"Now we say it so. {step}\n\n"


def made_of(tree, way=MODEL):
    return [one for one in traces(tree, "sha", way) if isinstance(one, Trace)]


def retold(engine, told, way=MODEL, context=100_000):
    return asyncio.run(Rewriter(way, engine, Letters(), weights="w", context=context).rewrite(told))


@settings(deadline=None)
@given(forest.trees(), st.booleans())
def test_every_position_keeps_its_node_and_the_verifier_believes_it(tree, phrases):
    way = Settings(linearize=msgspec.structs.replace(MODEL.linearize, phrases=phrases))
    told = made_of(tree, way)
    engine = Scripted(good)
    new = retold(engine, told, way)
    assert len(engine.batches) == 1
    for old, one in zip(told, new, strict=True):
        assert (one.id, one.walk, one.rewriter) == (old.id, old.walk, "model")
        assert [(s.kind, s.node) for s in one.segments] == [(s.kind, s.node) for s in old.segments]
        steps = [s for s in old.segments if s.kind == "step" and not only_answers(s.text)]
        assert (one.rewrites, one.fallbacks, one.fallback_reasons) == (len(steps), 0, [])
        said = {}
        for before, after in zip(old.segments, one.segments, strict=True):
            if after.kind == "step":
                said[after.node] = after.text
                own = only_answers(before.text)
                assert after.text == (before.text if own else f"Now we say it so. {before.text}")
            elif after.kind == "jump":
                assert said.get(after.node, "") in after.text, "a jump quotes what was told"
        if phrases:
            assert isinstance(asyncio.run(judge(one, "sha", GRADER, way.verify)), Example)


@settings(deadline=None)
@given(forest.trees(), st.integers())
def test_whatever_the_model_says_nothing_false_gets_in(tree, seed):
    def wild(step, _seed):
        rng = random.Random(f"{seed} {step}")
        junk = ["", "But wait, no.", "That is wrong.", f"{step} 99", "Answer: 7", f"So, {step}", "x\n\ny", "9 + 9 = 18"]
        return rng.choice(junk)

    told = made_of(tree)
    for old, one in zip(told, retold(Scripted(wild), told), strict=True):
        assert one.fallbacks == len(one.fallback_reasons) <= one.rewrites
        assert isinstance(asyncio.run(judge(one, "sha", GRADER, MODEL.verify)), Example)
        texts = [segment.text for segment in one.segments if segment.kind == "step"]
        olds = [segment.text for segment in old.segments if segment.kind == "step"]
        assert all(text in (own, f"So, {own}") for text, own in zip(texts, olds, strict=True))


def test_a_place_is_asked_once_and_told_alike():
    told = made_of(forest.example())
    engine = Scripted(lambda step, seed: f"Say {step}" if seed % 2 else f"Now {step}")
    new = retold(engine, told)
    (batch,) = engine.batches
    prompts = [tuple(request.prompt_ids) for request in batch]
    assert len(set(prompts)) == len(prompts)
    assert len(batch) < sum(one.rewrites for one in new), "the traces share beginnings"
    first = {one.segments[0].text for one in new if one.walk[1] == 1}
    assert len(first) == 1


def test_requests_are_the_same_for_the_same_tree_and_others_for_another():
    def requests(tree, way=MODEL):
        engine = Scripted(good)
        retold(engine, made_of(tree, way), way)
        return engine.batches[0]

    tree = forest.example()
    assert requests(tree) == requests(tree)
    request = requests(tree)[0]
    assert (request.weights, request.stop, request.temperature) == ("w", ["\n\n"], 0.7)
    assert len({one.seed for one in requests(tree)}) == len(requests(tree))
    other = msgspec.structs.replace(MODEL, factory=msgspec.structs.replace(MODEL.factory, seed=1))
    assert not {one.seed for one in requests(tree)} & {one.seed for one in requests(tree, other)}
    greedy = Settings(linearize=msgspec.structs.replace(MODEL.linearize, rewrite_temperature=0))
    assert {one.temperature for one in requests(tree, greedy)} == {0}


def test_the_prompt_shows_examples_and_what_was_said_before():
    engine = Scripted(good)
    retold(engine, made_of(forest.example()))
    said = [turns(request) for request in engine.batches[0]]
    assert all(turn[0]["role"] == "system" for turn in said)
    assert all([one["role"] for one in turn[1:]] == ["user", "assistant"] * 4 + ["user"] for turn in said)
    later = [turn[-1]["content"] for turn in said if "(nothing yet)" not in turn[-1]["content"]]
    assert later
    assert all(chat.GO_BACK in text or chat.RESTART in text for text in later)
    assert all("Problem: What is it, number 0?" in text for text in later)


def test_examples_give_way_to_a_long_problem_and_then_the_step_keeps_its_words():
    told = made_of(forest.example())
    sizes = []
    for context in (10_000, 1_500, 900, 50):
        engine = Scripted(good)
        new = retold(engine, told, context=context)
        sizes.append(max((len(turns(request)) for request in engine.batches[0]), default=0))
        for request in engine.batches[0]:
            assert len(request.prompt_ids) + request.max_tokens <= context
        if context == 50:
            assert {reason for one in new for reason in one.fallback_reasons} == {"no room"}
            assert [one.text for one in new] == [one.text for one in told]
    assert sizes[0] == 10
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 0


def test_a_rewrite_that_was_cut_off_is_not_taken():
    new = retold(Scripted(good, finish="length"), made_of(forest.example()))
    assert {reason for one in new for reason in one.fallback_reasons} == {"unfinished"}


def test_errors_of_the_engine_go_to_the_host_as_they_are():
    with pytest.raises(Aborted):
        retold(Scripted(good, finish="abort"), made_of(forest.example()))

    class Dead(Scripted):
        async def generate_many(self, requests):
            raise ExceptionGroup("tasks", [ExceptionGroup("more", [EngineDied("gone")])])

    with pytest.raises(EngineDied, match="gone"):
        retold(Dead(good), made_of(forest.example()))


def test_the_text_so_far_is_bounded_and_begins_with_a_word():
    assert tail("one two three", 40) == "one two three"
    assert tail("one two three", 7) == "three"
    way = Settings(linearize=msgspec.structs.replace(MODEL.linearize, rewrite_context=30))
    engine = Scripted(good)
    retold(engine, made_of(forest.example(), way), way)
    for request in engine.batches[0]:
        so_far = turns(request)[-1]["content"].split("Solution so far:\n")[1].split("\n\nNext step:")[0]
        assert len(so_far) <= 30
    place = Place("q", "", "s")
    assert asking(place.question, place.so_far, place.step) == (
        "Problem: q\n\nSolution so far:\n(nothing yet)\n\nNext step:\ns"
    )


@pytest.mark.parametrize(
    ("step", "only"),
    [("Answer: 7", True), ("So it is \\boxed{7}.", True), ("3 + 4 = 7\nAnswer: 7", False), ("3 + 4 = 7", False)],
)
def test_what_only_answers_is_left_alone(step, only):
    assert only_answers(step) is only
