"""Traces of the ablations are believed no more than others, and what the linearizer makes of them passes."""

import asyncio

import forest
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors import chat
from processors.cloning import join
from processors.grading import Grader
from processors.linearizer import traces
from processors.verifier import judge
from schemas.messages import Example, Segment, Trace
from schemas.search_settings import LinearizeSection
from schemas.settings import Settings

GRADER = Grader(Settings())  # numbers only: it starts no process


def made(tree, **options):
    way = Settings(linearize=LinearizeSection(**{"direct": 1, "search": 4, "max_wrong": 3, **options}))
    return [one for one in traces(tree, "s", way) if isinstance(one, Trace)]


def verdict(trace):
    return asyncio.run(judge(trace, "sha", GRADER, Settings().verify))


@settings(deadline=None)
@given(forest.trees(), st.sampled_from(["terminal", "low_q", "random"]), st.booleans(), st.booleans())
def test_what_the_linearizer_makes_passes_under_every_option(tree, merge, phrases, votes):
    for trace in made(tree, merge=merge, phrases=phrases, vote_filter=votes):
        assert isinstance(verdict(trace), Example), verdict(trace)


def bare():
    return next(one for one in made(forest.example(), phrases=False, direct=0, search=9) if one.backtracks == 2)


def with_words(trace, at, kind, text):
    segments = [*trace.segments]
    segments.insert(at, Segment(kind=kind, node=segments[at - 1].node, text=text))
    return msgspec.structs.replace(trace, segments=segments, text=join(segments))


@pytest.mark.parametrize(
    ("lie", "named"),
    [
        (lambda t: with_words(t, 2, "reflection", chat.REFLECTION), "verdict_follows"),
        (lambda t: msgspec.structs.replace(t, phrases=True), "verdict_follows"),
        (lambda t: msgspec.structs.replace(t, backtracks=1), "backtracks"),
        (lambda t: msgspec.structs.replace(t, wrong_answers=[]), "backtracks"),
    ],
)
def test_lies_without_phrases_are_named(lie, named):
    assert isinstance(verdict(bare()), Example)
    assert verdict(lie(bare())).why == f"check failed: {named}"


def test_a_branch_left_early_passes_only_where_it_may_be():
    early = next(
        one for one in made(forest.example(), direct=0, search=9, max_wrong=1, merge="low_q") if not one.wrong_answers
    )
    assert isinstance(verdict(early), Example)
    assert verdict(msgspec.structs.replace(early, merge="terminal")).why == "check failed: backtracks"
