"""The evaluator's samples: what names them, what survives a kill, and that nothing is sampled twice or mistaken."""

import asyncio

import pytest
from graded import problem

from processors.chat import Chat, resolve
from processors.grading import Grader
from processors.policy import Completion, EngineDied, Request
from schemas.messages import Weights
from schemas.messages import content_id as cid
from schemas.settings import PolicySection
from trainers import evaluator, samples
from trainers.samples import Log, Sample, draws

SHA = "a" * 64


@pytest.fixture(scope="session")
def chat() -> Chat:
    return Chat(resolve("tiny"), PolicySection())


class Answering:
    """An engine that says one of three answers, which its request alone decides; it dies when it has said `most`."""

    def __init__(self, most: int = 10**9) -> None:
        self.requests: list[Request] = []
        self.most = most
        self.started = 0

    async def generate(self, request: Request) -> Completion:
        self.started += 1
        await asyncio.sleep(0.001 * (request.seed or 0) % 0.007)  # they come back in another order than they were asked
        if len(self.requests) >= self.most:
            raise EngineDied("killed")
        self.requests.append(request)
        said = int(cid(request.seed, *request.prompt_ids)[:4], 16) % 3
        ids = [*range(said + 1)]
        return Completion(token_ids=ids, logprobs=[], text=f"Answer: {said}", finish="stop", version=0, sha=SHA)


def sample(name: str, text: str = "Answer: 1") -> Sample:
    return Sample(draw=name, problem="p", number=0, tokens=3, finish="stop", text=text)


def test_the_first_samples_are_the_same_however_many_there_are(chat, make_settings):
    problems = [problem(number=n) for n in range(3)]
    few = draws(chat, problems, make_settings("evaluate.samples=2"))
    many = draws(chat, problems, make_settings("evaluate.samples=4"))
    assert [(one.problem.id, one.number) for one in few] == [(p.id, n) for p in problems for n in range(2)]
    assert [one for one in many if one.number < 2] == few
    assert len({one.name for one in many}) == len({one.seed for one in many}) == 12


@pytest.mark.parametrize(
    "flag",
    [
        "evaluate.max_tokens=7", "sample.temperature=0.5", "evaluate.greedy=true", "factory.seed=1", "engine.dtype=half"
    ],
)  # fmt: skip
def test_a_sample_drawn_in_another_way_is_another_sample(chat, make_settings, flag):
    [one], [other] = (draws(chat, [problem()], make_settings(*flags)) for flags in ((), (flag,)))
    assert one.name != other.name
    request = other.request(SHA, make_settings(flag))
    assert (request.weights, request.temperature == 0.0) == (SHA, "greedy" in flag)


@pytest.mark.parametrize(("argument", "same"), [("quantization", False), ("max_num_batched_tokens", True)])
def test_of_the_engines_arguments_only_those_count_that_change_the_answers(chat, make_settings, argument, same):
    plain, other = make_settings(), make_settings(f'engine.args={{{argument}="1"}}')
    [one], [two] = (draws(chat, [problem()], settings) for settings in (plain, other))
    assert (one.name == two.name) is same


def test_greedy_has_no_seed(chat, make_settings):
    names = {
        draws(chat, [problem()], make_settings("evaluate.greedy=true", f"factory.seed={n}"))[0].name for n in (1, 2)
    }
    assert len(names) == 1


def test_a_torn_line_costs_itself_and_nothing_else(make_settings):
    settings = make_settings()
    log = Log(settings, SHA, set())
    for name in "ab":
        log.add(sample(name))
    log.close()
    whole = log.path.read_bytes()
    log.path.write_bytes(whole[:-9])
    again = Log(settings, SHA, {"a", "b", "c"})
    assert set(again.samples) == {"a"}
    again.add(sample("c"))
    again.close()
    assert set(Log(settings, SHA, {"a", "b", "c"}).samples) == {"a", "c"}


def test_two_processes_add_to_one_file_and_the_first_of_a_name_stays(make_settings):
    settings = make_settings()
    one, two = Log(settings, SHA, {"a"}), Log(settings, SHA, {"a"})
    one.add(sample("a", "first"))
    two.add(sample("a", "second"))
    one.add(sample("b", "\n\u2028\x00 odd"))
    for log in (one, two):
        log.close()
    found = Log(settings, SHA, {"a", "b"}).samples
    assert (found["a"].text, found["b"].text) == ("first", "\n\u2028\x00 odd")
    assert set(Log(settings, SHA, {"b"}).samples) == {"b"}, "what is not asked for is passed over"
    assert Log(settings, "b" * 64, {"a"}).samples == {}, "other weights, other samples"


def _count(row) -> int:
    assert len(row.texts) == len(row.verdicts) == len(row.tokens) == len(row.backtracks) == len(row.finishes)
    return len(row.texts)


async def evaluated(engine, chat, settings, problems):
    weights = Weights(policy="policy", version=3, parent=2, path="/w", sha256=SHA, trainer="rl")
    grader = Grader(settings)
    answers, rows = await evaluator.evaluate(engine, chat, problems, grader, weights, settings)
    grader.close()
    assert sum(row.verdicts.count("correct") for row in answers) == round(
        rows[-1].pass_at_1 * sum(map(_count, answers))
    )
    return [
        {name: getattr(row, name) for name in row.__struct_fields__ if name not in {"seconds", "time"}} for row in rows
    ]


async def test_an_interrupted_evaluation_goes_on_with_what_it_has(chat, make_settings, tmp_path):
    problems = [problem(source, n) for source in ("one", "two") for n in range(6)]
    plain = make_settings("evaluate.samples=4", f"factory.data={tmp_path / 'plain'}")
    whole = await evaluated(Answering(), chat, plain, problems)
    assert 0 < whole[-1]["pass_at_1"] < 1

    settings = make_settings("evaluate.samples=4")
    dying = Answering(most=17)
    with pytest.raises(EngineDied):
        await evaluated(dying, chat, settings, problems)
    after = dying.started
    await asyncio.sleep(0.05)
    assert len(dying.requests) == 17, "after an error nothing goes on"
    assert dying.started == after
    path = Log(settings, SHA, set()).path
    lines = path.read_bytes().splitlines()
    assert len(lines) == 17, "each sample was kept as it came"
    path.write_bytes(path.read_bytes()[:-3])

    going_on = Answering()
    assert await evaluated(going_on, chat, settings, problems) == whole
    assert len(going_on.requests) == 48 - 16
    done = Answering(most=0)
    assert await evaluated(done, chat, settings, problems) == whole
    more = Answering()
    rows = await evaluated(more, chat, make_settings("evaluate.samples=5", "evaluate.ks=[5]"), problems)
    assert len(more.requests) == 12, "one more of each"
    assert rows[-1]["asked"] != whole[-1]["asked"]
    assert samples.FOLDER in path.parts
