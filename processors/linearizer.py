"""The stage 'linearize': Tree in; Traces out, or one Filtered that says why there are none.

A thin shell around the pure linearize.py (which nodes, in which order) and cloning.py (in which words).
"""

from random import Random
from typing import Any

from processors import cloning, linearize
from processors.app import Source, attach, stage_app
from processors.linearize import Walk
from processors.status import Status
from schemas.messages import Filtered, Message, Trace, Tree, content_id
from schemas.settings import Settings
from schemas.topics import BY_NAME

STAGE = "linearize"
LIMIT = 4


def build(settings: Settings, status: Status) -> Any:  # noqa: ANN401 - a faust.App
    """The Faust app of this stage, ready for app.run."""
    app = stage_app(STAGE, settings)

    async def handle(tree: Tree, source: Source) -> list[Message]:
        made = traces(tree, source.sha, settings)
        status.add(traces=sum(isinstance(message, Trace) for message in made))
        return made

    attach(app, BY_NAME["trees"], handle, status, settings, limit=LIMIT)
    return app


def traces(tree: Tree, tree_sha: str, settings: Settings) -> list[Message]:
    """The traces of a tree, the same ones for the same bytes and seed on any machine.

    A trace's id covers the tree's sha: a tree that was searched twice gives different traces, and those of the copy
    that lost must not stand in the way of the others.

    Raises:
        BadTree: where the nodes are not a tree.
    """
    rng = Random(f"{tree.id}:{settings.factory.seed}")
    walks = linearize.walks(tree, rng, settings.linearize)
    if not walks:
        return [_filtered(tree)]
    return [_trace(tree, tree_sha, index, walk, rng, settings) for index, walk in enumerate(walks)]


def _trace(tree: Tree, sha: str, index: int, walk: Walk, rng: Random, settings: Settings) -> Trace:
    segments = cloning.clone(tree, walk, rng, settings.linearize)
    return Trace(
        id=content_id(tree.id, sha, walk.arm, index),
        tree_id=tree.id,
        tree_sha=sha,
        problem=tree.problem,
        arm=walk.arm,
        walk=walk.nodes,
        segments=segments,
        text=cloning.join(segments),
        backtracks=walk.backtracks,
        wrong_answers=[tree.nodes[node].answer for node in walk.wrong],
    )


def _filtered(tree: Tree) -> Filtered:
    correct, _ = linearize.terminals(tree)
    why = "no correct terminal"
    if correct:
        voted = any(linearize.passes_votes(node) for node in correct)
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
