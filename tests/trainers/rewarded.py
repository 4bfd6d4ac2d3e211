"""Reward groups made by hand."""

import msgspec
import torch

from schemas.messages import Problem, RewardGroup, Rollout, Span, content_id


def group(index, *, version, rewards=(1, -1), finish="stop", logprobs=None, size=2) -> RewardGroup:
    """A group whose rollouts hold few tokens of the random Llama's vocabulary, different for each index."""
    question = f"What is {index}?"
    problem = Problem(
        id=content_id(question), question=question, answer=str(index), source="test", difficulty=0.5, grader="numeric"
    )
    rollouts = []
    for line in range(size):
        ids = [4 + (index * 7 + line * 3 + at) % 70 for at in range(6 + (index + line) % 5)]
        rollouts.append(
            Rollout(
                token_ids=ids,
                logprobs=logprobs or [-4.0 - 0.1 * at for at in range(len(ids))],
                spans=[Span(version=version, sha="s", start=0, stop=len(ids))],
                finish=finish,
                text="...",
            )
        )
    return RewardGroup(
        id=content_id(problem.id, 0),
        problem=problem,
        round=0,
        rollouts_sha="s",
        prompt_ids=[1, 30, 31, 32, 4],
        rollouts=rollouts,
        rewards=[float(r) for r in rewards],
        verdicts=["correct" if r > 0 else "wrong" for r in rewards],
        backtracks=[line % 2 for line in range(size)],
    )


def sampled_at(group: RewardGroup, model, temperature: float) -> RewardGroup:
    """The group as if `model` had sampled it at this temperature: its log-probs are of that distribution."""
    start = len(group.prompt_ids)
    rollouts = []
    for rollout in group.rollouts:
        ids = torch.tensor([*group.prompt_ids, *rollout.token_ids])
        with torch.no_grad():
            every = (model(ids[None]).logits[0].double() / temperature).log_softmax(-1)
        logprobs = every[start - 1 : -1].gather(-1, ids[start:, None]).squeeze(-1).tolist()
        rollouts.append(msgspec.structs.replace(rollout, logprobs=logprobs))
    return msgspec.structs.replace(group, rollouts=rollouts, temperature=temperature)
