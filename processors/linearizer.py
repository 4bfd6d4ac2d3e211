"""The stage 'linearize': Tree in; Traces out, or one Filtered that says why there are none.

A thin shell around the pure linearize.py (which nodes, in which order) and cloning.py (in which words). With
linearize.rewriter = "model" the steps are then put in the base policy's words (rewriter.py), on the engine of the
process that hosts this stage; with another name, in those of a function that a package adds.
"""

from random import Random
from typing import Any

import msgspec

from processors import cloning, linearize
from processors.app import Source, attach, stage_app
from processors.linearize import Walk
from processors.rewriter import Words
from processors.status import Status
from schemas.kinds import Section
from schemas.messages import Filtered, Message, Trace, Tree, content_id
from schemas.settings import Settings
from schemas.topics import BY_NAME

STAGE = "linearize"
LIMIT = 4


def build(settings: Settings, status: Status, rewriter: Words | None = None) -> Any:  # noqa: ANN401 - a faust.App
    """The Faust app of this stage, ready for app.run; `rewriter`: who words the steps, None = nobody."""
    app = stage_app(STAGE, settings)

    async def handle(tree: Tree, source: Source) -> list[Message]:
        made = await worded(traces(tree, source.sha, settings), rewriter)
        told = [message for message in made if isinstance(message, Trace)]
        status.add(
            traces=len(told),
            rewrites=sum(trace.rewrites for trace in told),
            fallbacks=sum(trace.fallbacks for trace in told),
        )
        return made

    attach(app, BY_NAME["trees"], handle, status, settings, limit=LIMIT)
    return app


def traces(tree: Tree, tree_sha: str, settings: Settings) -> list[Message]:
    """The traces of a tree in the template's words, the same ones for the same bytes and seed on any machine.

    A trace's id covers the tree's sha: a tree that was searched twice gives different traces, and those of the copy
    that lost must not stand in the way of the others. It also covers the [linearize] settings that are not the
    defaults: a tree that is linearized again in another way gives other traces beside those that are there.

    Raises:
        BadTree: where the nodes are not a tree.
    """
    rng = Random(f"{tree.id}:{settings.factory.seed}")
    walks = linearize.walks(tree, rng, settings.linearize)
    if not walks:
        return [_filtered(tree, votes=settings.linearize.vote_filter)]
    way = changed(settings.linearize)
    return [_trace(tree, tree_sha, index, walk, rng, settings, way) for index, walk in enumerate(walks)]


async def worded(made: list[Message], rewriter: Words | None) -> list[Message]:
    """What `traces` gave, its traces in the rewriter's words."""
    told = [message for message in made if isinstance(message, Trace)]
    return list(await rewriter.rewrite(told)) if rewriter is not None and told else made


def changed(settings: Section) -> str:
    """A section's settings that are not the defaults as JSON, '' for none: what a trace's id covers of [linearize]."""
    now, default = (msgspec.to_builtins(section) for section in (settings, type(settings)()))
    other = {name: value for name, value in now.items() if value != default[name]}
    return msgspec.json.encode(other, order="sorted").decode() if other else ""


def _trace(tree: Tree, sha: str, index: int, walk: Walk, rng: Random, settings: Settings, way: str) -> Trace:
    segments = cloning.clone(tree, walk, rng, settings.linearize)
    return Trace(
        id=content_id(tree.id, sha, walk.arm, index, *([way] if way else [])),
        tree_id=tree.id,
        tree_sha=sha,
        problem=tree.problem,
        arm=walk.arm,
        walk=walk.nodes,
        segments=segments,
        text=cloning.join(segments),
        backtracks=walk.backtracks,
        wrong_answers=[tree.nodes[node].answer for node in walk.wrong if tree.nodes[node].terminal],
        merge=settings.linearize.merge,
        phrases=settings.linearize.phrases,
    )


def _filtered(tree: Tree, *, votes: bool) -> Filtered:
    correct, _ = linearize.terminals(tree)
    why = "no correct terminal"
    if correct:
        voted = not votes or any(linearize.passes_votes(node, linearize.votes_wanted(tree)) for node in correct)
        why = "no walk under these settings" if voted else "no correct terminal passed the votes"
    return Filtered(
        id=content_id(STAGE, tree.id, why),
        stage=STAGE,
        input_topic="trees",
        input_id=tree.id,
        why=why,
        tokens=tree.generated_tokens,
        source=tree.problem.source,
        difficulty=tree.problem.difficulty,
    )
