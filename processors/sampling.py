"""Whole solutions drawn from the prompt, as one tree: the strategies that MCTS must be compared with. Pure.

'sample' draws settings.samples solutions and keeps them all: the tree is the trie of their steps, and linearization
finds its failures in it as in any tree. 'best_of_n' is the control arm at equal tokens: it only needs one correct
solution, so it stops at the first (settings.stop_early), and linearization makes one direct trace of the best.
settings.max_tokens matches the budgets of two strategies. strategy.py says how they are driven.
"""

from processors.mcts_tree import Branch
from processors.steps import Sampled, final_text, reflects, split
from processors.strategy import Check, Graded, Strategy, Talk

ROUND = 4
"""Solutions asked together; which solutions are drawn does not depend on it."""


class Sampling(Strategy):
    """Independent samples; see Strategy for its arguments and how to drive it.

    A node's N counts the samples through it and Q is the share of them that ended right; the root's `rollouts` also
    counts those that left no path: too deep, an empty step, a reflection in it, or the text of an earlier step in
    other tokens.
    """

    def run(self) -> Talk[None]:
        """Rounds of samples until there are enough."""
        while not (reason := self.enough()):
            room = self.settings.samples - self.arena.root.rollouts
            if room <= 0:
                reason = "budget"
                break
            yield from self._draw(min(ROUND, room))
            self.iterations += 1
        self.stopped = reason

    def enough(self) -> str:
        """As Strategy.enough; best_of_n is complete as soon as it is solved."""
        if self.settings.strategy == "best_of_n" and self.settings.stop_early and self.solved:
            return "complete"
        return super().enough()

    def _draw(self, count: int) -> Talk[None]:
        limit = min(self.settings.rollout_tokens, self.context - len(self.prompt))
        asks = [self._request(self.prompt, limit, []) for _ in range(count)]
        drawn = yield from self._ask(asks)
        texts = [self.speaker.decode(sampled.token_ids) for sampled in drawn]
        graded = yield from self._check([Check(text=final_text(text)) for text in texts])
        for sampled, text, verdict in zip(drawn, texts, graded, strict=True):
            self._keep(sampled, text, verdict)
        for branch in self.arena.nodes:
            self.arena.set_priors(branch)
        yield from self._vote()

    def _keep(self, sampled: Sampled, text: str, verdict: Graded) -> None:
        right = verdict.outcome == "correct"
        root = self.arena.root
        root.rollouts += 1
        root.rollouts_correct += right
        root.value = root.rollouts_correct / root.rollouts
        self.cuts += reflects(text)
        leaf = None if reflects(text) else self._graft(sampled)
        if leaf is None:
            return
        if leaf.terminal and not leaf.verdict:
            leaf.verdict, leaf.answer, leaf.value = verdict.outcome, verdict.answer, float(right)
        for node in leaf.path():
            node.q = (node.q * node.visits + right) / (node.visits + 1)
            node.visits += 1

    def _graft(self, sampled: Sampled) -> Branch | None:
        """The node where this sample ends: its steps are in the tree afterwards, None where they do not fit."""
        steps = split(sampled, self.speaker)
        if not steps or len(steps) > self.settings.depth or any(not step.text for step in steps):
            return None
        path = [self.arena.root]
        for step in steps:
            child = path[-1].child(step.text)
            if child is None:
                break
            if child.token_ids != step.token_ids:
                return None
            path.append(child)
        rest = steps[len(path) - 1 :]
        if rest and path[-1].terminal:
            return None
        for known in path[1:]:
            known.merged += 1
        node = path[-1]
        for step in rest:
            node = self.arena.add(node, step)
        return node
