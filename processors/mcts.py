"""Monte Carlo tree search over solutions: the paper's strategy. Pure; strategy.py says how it is driven.

The method is section 1 of ASTRO (arXiv 2507.00417):

- state = the prompt and the steps so far, token-exact; action = the next step, sampled up to a blank line;
- selection: argmax_a Q(S,a) + c_puct pi(a|S) sqrt(N(S)) / (1 + N(S,a)); pi = softmax over siblings of the mean
  log-prob;
- expansion: k steps sampled from the selected state, equal texts merged;
- R(S) of a new node: the share of correct ones among M rollouts, one request each; of a terminal node: its verdict;
- backup: mcts_tree.backup.

Departures, each a setting or stated here [ours]: M is an upper bound (`adaptive`, the race of adaptive.py); the root is
a new node too and gets its rollouts first; a node may be sampled again (mcts_tree.Arena.wants_expansion) because a root
expanded once loses to best-of-N; terminal nodes are not selected again; rollouts are kept as paths (`adopt`); a tree
stops when it holds what linearization needs (`stop_early`); a step that is never finished, or a response that ends
without an answer, is a terminal node whose verdict is 'unparsable'.
"""

from dataclasses import dataclass, field

from processors.adaptive import Tally, next_round, racing
from processors.answers import answer_key
from processors.chat import STEP_END
from processors.mcts_tree import Branch, backup
from processors.steps import Sampled, Step, final_text, read_step, reflects, split
from processors.strategy import Ask, Check, Graded, Strategy, Talk


@dataclass(slots=True)
class Draft:
    """A node before it joins the tree, while its value is being estimated."""

    state: list[int]
    """Prompt and path: what its rollouts continue."""
    step: Step | None = None
    count: int = 1
    """Samples with this text."""
    known: Branch | None = None
    """The child that has this text already."""
    new: bool = True
    """Its value is still to be estimated and backed up: no such child was there, or an adopted one."""
    verdict: Graded | None = None
    texts: list[str] = field(default_factory=list)
    rolled: list[Sampled] = field(default_factory=list)
    graded: list[Graded] = field(default_factory=list)

    @property
    def to_grade(self) -> bool:
        """Whether it is a new terminal node."""
        return self.known is None and self.step is not None and self.step.answers

    @property
    def dead(self) -> bool:
        """Whether no step can follow, and there is nothing to grade."""
        return self.known is None and self.step is not None and self.step.dead

    @property
    def correct(self) -> int:
        """Rollouts that ended right."""
        return sum(graded.outcome == "correct" for graded in self.graded)

    @property
    def value(self) -> float:
        """The mean verifier score of its rollouts, 0 without any."""
        return self.correct / len(self.graded) if self.graded else 0.0

    @property
    def tally(self) -> Tally:
        """What is known of its value."""
        if self.known is not None and self.known.terminal:
            return _tally(self.known)
        if self.to_grade or self.dead:
            return Tally(exact=float(self.verdict is not None and self.verdict.outcome == "correct"))
        return Tally(correct=self.correct, trials=len(self.graded))

    @property
    def to_roll(self) -> bool:
        """Whether it needs rollouts."""
        terminal = self.known.terminal if self.known is not None else self.to_grade or self.dead
        return self.new and not terminal


class Mcts(Strategy):
    """PUCT search; see Strategy for its arguments and how to drive it."""

    def run(self) -> Talk[None]:
        """The search, from the root's rollouts to the budget's end."""
        yield from self._root()
        while not (reason := self.enough()):
            leaf = self.arena.select() if self.iterations < self.settings.iterations else None
            if leaf is None:
                reason = "budget" if self.iterations >= self.settings.iterations else "exhausted"
                break
            yield from self._expand(leaf)
            self.iterations += 1
        self.stopped = reason

    def _root(self) -> Talk[None]:
        """The root's rollouts: whole solutions, so in rounds that end as soon as the tree has enough."""
        root, draft = self.arena.root, Draft(state=self.prompt)
        root.visits = 1
        while self._due(draft) and not (draft.rolled and self.enough()):
            yield from self._round([draft], grade=[])
            root.rollouts, root.rollouts_correct = len(draft.graded), draft.correct
            root.value = root.q = draft.value
            self._adopt(root, draft)
            yield from self._vote()

    def _expand(self, leaf: Branch) -> Talk[None]:
        state = self.prompt + [token for node in leaf.path() for token in node.token_ids]
        asks = [self._request(state, self.settings.step_tokens, [STEP_END]) for _ in range(self.settings.k)]
        drafts = self._drafts(leaf, state, (yield from self._ask(asks)))
        yield from self._evaluate(leaf, drafts)
        leaf.expansions += 1
        leaf.spent = not any(draft.new for draft in drafts)
        fresh = [(self._commit(leaf, draft), draft) for draft in drafts]
        self.arena.set_priors(leaf)
        for branch, draft in fresh:
            if draft.new:
                self._score(branch, draft)
        for branch, draft in fresh:
            self._adopt(branch, draft)
        yield from self._vote()

    def _drafts(self, leaf: Branch, state: list[int], sampled: list[Sampled]) -> list[Draft]:
        """The distinct steps, in order of their first sample; of one text, a step that can go on is preferred."""
        drafts: dict[str, Draft] = {}
        for answer in sampled:
            step = read_step(answer, self.speaker)
            self.cuts += step.cut if step is not None else reflects(self.speaker.decode(answer.token_ids))
            if step is None:
                continue
            known = leaf.child(step.text)
            own = step.token_ids if known is None else known.token_ids
            draft = Draft(state=state + own, step=step, known=known, new=known is None or known.adopted)
            first = drafts.setdefault(step.text, draft)
            if first is draft:
                continue
            first.count += 1
            if first.dead and not draft.dead:
                first.state, first.step = draft.state, draft.step
        return list(drafts.values())

    def _evaluate(self, leaf: Branch, drafts: list[Draft]) -> Talk[None]:
        """Grade the new terminals and roll out the other new nodes, as long as it may decide something."""
        again = {draft.step.text for draft in drafts if draft.step is not None and draft.new}
        old = [_tally(child) for child in leaf.children if not child.adopted and child.text not in again]
        grade = [draft for draft in drafts if draft.to_grade]
        going = [draft for draft in drafts if draft.to_roll and self._due(draft)]
        while going or grade:
            yield from self._round(going, grade)
            grade = []
            new = [draft for draft in drafts if draft.new]
            race = racing([draft.tally for draft in new], old, self.settings.race_z, self.settings.race_margin)
            contested = [draft for draft, goes in zip(new, race, strict=True) if goes]
            going = [draft for draft in contested if draft.to_roll and self._due(draft)]

    def _round(self, rolling: list[Draft], grade: list[Draft]) -> Talk[None]:
        """One batch of rollouts, those of one prefix side by side, and one of verdicts on them and on `grade`."""
        asking = [(draft, self._rolls(draft)) for draft in rolling]
        rolled = iter((yield from self._ask([ask for _, asks in asking for ask in asks])))
        checks = [Check(text=draft.step.text) for draft in grade if draft.step is not None]
        for draft, asks in asking:
            fresh = [next(rolled) for _ in asks]
            texts = [self.speaker.decode(sampled.token_ids) for sampled in fresh]
            draft.rolled += fresh
            draft.texts += texts
            checks += [Check(text=final_text(text)) for text in texts]
        graded = iter((yield from self._check(checks)))
        for draft in grade:
            draft.verdict = next(graded)
        for draft, asks in asking:
            draft.graded += [next(graded) for _ in asks]

    def _due(self, draft: Draft) -> int:
        """How many rollouts the draft gets in its next round: all M at once where the search is not adaptive."""
        if len(draft.state) >= self.context:
            return 0
        done, most = len(draft.rolled), self.settings.rollouts
        return next_round(done, most) if self.settings.adaptive else most - done

    def _rolls(self, draft: Draft) -> list[Ask]:
        limit = min(self.settings.rollout_tokens, self.context - len(draft.state))
        return [self._request(draft.state, limit, []) for _ in range(self._due(draft))]

    def _commit(self, leaf: Branch, draft: Draft) -> Branch:
        """The draft's node in the tree: a new one, or the child that has its text."""
        if draft.known is not None:
            draft.known.merged += draft.count
            draft.known.adopted = False
            return draft.known
        assert draft.step is not None
        branch = self.arena.add(leaf, draft.step)
        branch.merged = draft.count
        return branch

    def _score(self, branch: Branch, draft: Draft) -> None:
        """R(S) of a new node, then the backup."""
        if branch.terminal and not branch.verdict:
            branch.verdict = "unparsable" if draft.verdict is None else draft.verdict.outcome
            branch.answer = "" if draft.verdict is None else draft.verdict.answer
        branch.rollouts, branch.rollouts_correct = len(draft.graded), draft.correct
        branch.value = float(branch.verdict == "correct") if branch.terminal else draft.value
        backup(branch)

    def _adopt(self, branch: Branch, draft: Draft) -> None:
        """Keep at most one correct and one wrong rollout as a path, where the tree has no terminal with its answer."""
        if not self.settings.adopt:
            return
        present = {answer_key(node.answer) for node in self.arena.nodes if node.terminal}
        for wanted in ("correct", "wrong"):
            for sampled, text, graded in zip(draft.rolled, draft.texts, draft.graded, strict=True):
                key = answer_key(graded.answer)
                if graded.outcome != wanted or not graded.answer or key in present or reflects(text):
                    continue
                terminal = self.arena.adopt(branch, split(sampled, self.speaker))
                if terminal is not None:
                    terminal.verdict, terminal.answer = graded.outcome, graded.answer
                    terminal.value = terminal.q = float(wanted == "correct")
                    present.add(key)
                    break


def _tally(sibling: Branch) -> Tally:
    """What is known of a child from before."""
    if sibling.terminal:
        return Tally(exact=sibling.value)
    return Tally(correct=sibling.rollouts_correct, trials=sibling.rollouts)
