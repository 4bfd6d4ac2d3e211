"""Monte Carlo tree search over solutions, as a generator: it yields batches of requests and is sent their answers.

Pure on purpose: no engine, no broker, no event loop and no clock, so that the same answers give the same tree and the
whole search is property-tested with a scripted policy. The method is section 1 of ASTRO (arXiv 2507.00417):

- state = the prompt and the steps so far, token-exact; action = the next step, sampled up to a blank line;
- selection: argmax_a Q(S,a) + c_puct pi(a|S) sqrt(N(S)) / (1 + N(S,a)); pi = softmax over siblings of the mean
  log-prob;
- expansion: k steps sampled from the selected state, equal texts merged;
- R(S) of a new node: the share of correct ones among M rollouts, one request each; of a terminal node: its verdict;
- backup: mcts_tree.backup.

Departures, each a setting or stated here [ours]: the root is a new node too and gets its M rollouts first; a node may
be sampled again (mcts_tree.Arena.wants_expansion) because a root expanded once loses to best-of-N; terminal nodes are
not selected again; rollouts are kept as paths (`adopt`); the search stops when it holds what linearization needs
(`stop_early`); a step that is never finished, or a response that ends without an answer, is a terminal node whose
verdict is 'unparsable'. The tree is consistent at every yield, so it can be published when time is up.
"""

import hashlib
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, cast

import msgspec

from processors.answers import answer_key
from processors.chat import STEP_END
from processors.mcts_tree import Arena, Branch, backup
from processors.steps import Sampled, Speaker, Step, final_text, read_step, reflects, split
from schemas.messages import Outcome
from schemas.settings import SearchSection


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence to sample from the policy."""

    prompt_ids: list[int]
    max_tokens: int
    seed: int
    stop: list[str] = []


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One text whose answer is to be graded."""

    text: str


class Graded(Protocol):
    """What a grader answers to a Check (processors/grading.py's Verdict is one)."""

    @property
    def outcome(self) -> Outcome:
        """The verdict."""

    @property
    def answer(self) -> str:
        """The answer it read."""


Batch = list[Ask] | list[Check]
Answers = Sequence[Sampled] | Sequence[Graded]
R = TypeVar("R")
Talk = Generator[Batch, Answers, R]
VOTE_TOKENS = 64
_YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


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
    def to_roll(self) -> bool:
        """Whether it needs rollouts."""
        terminal = self.known.terminal if self.known is not None else self.to_grade or self.dead
        return self.new and not terminal


class Search:
    """One tree. Drive `run()`: send it the answers to each batch, in order and of the same length.

    Args:
        question: the problem's text (for the votes).
        speaker: tokenizer and chat format.
        settings: the [search] section.
        seed: every request's own seed derives from it and the request's number.
        context: tokens that prompt and response may have together.
        enough_wrong: distinct wrong answers at which a solved tree stops.

    Raises:
        ValueError: for a prompt that leaves no room for a step.
    """

    def __init__(
        self, question: str, speaker: Speaker, settings: SearchSection, *, seed: int, context: int, enough_wrong: int
    ) -> None:
        self.question, self.speaker, self.settings = question, speaker, settings
        self.seed, self.context, self.enough_wrong = seed, context, enough_wrong
        self.prompt = speaker.prompt_ids(question)
        room = context - len(self.prompt)
        if room < settings.step_tokens:
            raise ValueError(f"a prompt of {len(self.prompt)} tokens leaves no room in a context of {context}")
        self.arena = Arena(settings, room)
        self.iterations = self.requests = self.generated_tokens = self.prompt_tokens = self.cuts = 0

    def run(self) -> Talk[None]:
        """The search, from the root's rollouts to the budget's end."""
        root = Draft(state=self.prompt)
        yield from self._evaluate([root])
        self._score(self.arena.root, root)
        self._adopt(self.arena.root, root)
        yield from self._vote()
        while self.iterations < self.settings.iterations and not self.complete:
            leaf = self.arena.select()
            if leaf is None:
                return
            yield from self._expand(leaf)
            self.iterations += 1

    @property
    def solved(self) -> bool:
        """A correct terminal exists, that passed the votes where votes are on."""
        return any(node.verdict == "correct" and self._passed(node) for node in self.arena.nodes)

    @property
    def complete(self) -> bool:
        """Whether linearization has all it needs, and settings.stop_early says to stop then."""
        wrong = {answer_key(node.answer) for node in self.arena.nodes if node.verdict == "wrong"}
        return self.settings.stop_early and len(wrong) >= self.enough_wrong and self.solved

    def _passed(self, node: Branch) -> bool:
        return node.votes >= self.settings.votes and node.votes_yes == node.votes

    def _expand(self, leaf: Branch) -> Talk[None]:
        state = self.prompt + [token for node in leaf.path() for token in node.token_ids]
        asks = [self._request(state, self.settings.step_tokens, [STEP_END]) for _ in range(self.settings.k)]
        drafts = self._drafts(leaf, state, (yield from self._ask(asks)))
        yield from self._evaluate(drafts)
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

    def _evaluate(self, drafts: list[Draft]) -> Talk[None]:
        """Roll out and grade: all rollouts of one prefix lie side by side, all texts are graded in one batch."""
        rolling = [(draft, self._rolls(draft)) for draft in drafts if draft.to_roll]
        rolled = iter((yield from self._ask([ask for _, asks in rolling for ask in asks])))
        for draft, asks in rolling:
            draft.rolled = [next(rolled) for _ in asks]
            draft.texts = [self.speaker.decode(sampled.token_ids) for sampled in draft.rolled]
        terminals = [draft for draft in drafts if draft.to_grade]
        checks = [Check(text=draft.step.text) for draft in terminals if draft.step is not None]
        checks += [Check(text=final_text(text)) for draft, _ in rolling for text in draft.texts]
        graded = iter((yield from self._check(checks)))
        for draft in terminals:
            draft.verdict = next(graded)
        for draft, asks in rolling:
            draft.graded = [next(graded) for _ in asks]

    def _rolls(self, draft: Draft) -> list[Ask]:
        limit = min(self.settings.rollout_tokens, self.context - len(draft.state))
        return [self._request(draft.state, limit, []) for _ in range(self.settings.rollouts if limit > 0 else 0)]

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
        branch.rollouts = len(draft.graded)
        branch.rollouts_correct = sum(graded.outcome == "correct" for graded in draft.graded)
        if branch.terminal:
            branch.value = float(branch.verdict == "correct")
        elif branch.rollouts:
            branch.value = branch.rollouts_correct / branch.rollouts
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

    def _vote(self) -> Talk[None]:
        """Ask the policy, settings.votes times, whether each new correct solution is right."""
        pending = [node for node in self.arena.nodes if node.verdict == "correct" and node.votes < self.settings.votes]
        voting = [(node, self._ballots(node)) for node in pending]
        said = iter((yield from self._ask([ask for _, asks in voting for ask in asks])))
        for node, asks in voting:
            votes = [says_yes(self.speaker.decode(next(said).token_ids)) for _ in asks]
            node.votes, node.votes_yes = len(votes), sum(votes)

    def _ballots(self, node: Branch) -> list[Ask]:
        solution = STEP_END.join(step.text for step in node.path()[1:])
        prompt = self.speaker.prompt_ids(vote_question(self.question, solution))
        limit = min(VOTE_TOKENS, self.context - len(prompt))
        return [self._request(prompt, limit, []) for _ in range(self.settings.votes if limit > 0 else 0)]

    def _request(self, prompt: list[int], max_tokens: int, stop: list[str]) -> Ask:
        digest = hashlib.sha256(f"{self.seed}:{self.requests}".encode()).digest()
        self.requests += 1
        return Ask(prompt_ids=prompt, max_tokens=max_tokens, seed=int.from_bytes(digest[:4], "big"), stop=stop)

    def _ask(self, asks: list[Ask]) -> Talk[list[Sampled]]:
        if not asks:
            return []
        answers = list(cast("Sequence[Sampled]", (yield asks)))
        assert len(answers) == len(asks)
        self.prompt_tokens += sum(len(ask.prompt_ids) for ask in asks)
        self.generated_tokens += sum(len(answer.token_ids) for answer in answers)
        return answers

    def _check(self, checks: list[Check]) -> Talk[list[Graded]]:
        if not checks:
            return []
        answers = list(cast("Sequence[Graded]", (yield checks)))
        assert len(answers) == len(checks)
        return answers


def vote_question(question: str, solution: str) -> str:
    """What the policy is asked about its own solution."""
    return f"{question}\n\nProposed solution:\n{solution}\n\nIs this solution correct? Reply with yes or no only."


def says_yes(reply: str) -> bool:
    """The last yes or no of a reply; none of them is a no."""
    words = _YES_NO.findall(reply)
    return bool(words) and words[-1].lower() == "yes"
