"""The tiny policy.

Its lessons are true, its tokenizer loses nothing, its trainer makes the same thing twice, and the packaged one does
what its card says.
"""

import json
from itertools import islice, pairwise
from pathlib import Path
from random import Random

import msgspec
import pytest
import reasoning_gym
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.chat import (
    GO_BACK,
    REFLECTION,
    RESERVED,
    RESTART,
    VERDICT_BAD,
    VERDICT_GOOD,
    Chat,
    resolve,
    states_answer,
)
from schemas.settings import PolicySection
from schemas.tiny_problems import FAMILIES, is_held_out
from trainers import bootstrap
from trainers.tiny import architecture, card, chain, countdown, documents, exam, probes, tokenizer
from trainers.tiny.expression import parse
from trainers.tiny.tasks import attempt

LESSONS = {"countdown": countdown.lesson, "chain_sum": chain.lesson}
MINI = msgspec.structs.replace(architecture.SIZES["mini"], tokens=30_000, examined=4, probes=2)
PACKAGED = Path(resolve("tiny"))


@pytest.fixture(scope="module")
def words():
    return tokenizer.build()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("tiny") / "model"
    return out, bootstrap.run(out, recipe=MINI, threads=1)


def metadata(lesson):
    if lesson.family == "countdown":
        return {"numbers": [item.value for item in lesson.start.items], "target": lesson.gold}
    return {"expression": lesson.start.text}


# --- lessons ---


def hit_or_miss(lesson, line, result):
    """The word that a step must end with: a countdown's last one says whether it reached the target."""
    if lesson.family != "countdown" or len(line.after.items) > 1:
        return ""
    return "hit" if int(result) == lesson.gold else "miss"


@given(st.integers(0, 2**32), st.sampled_from(sorted(LESSONS)), st.booleans())
def test_an_honest_attempt_is_graded_as_its_documents_say(seed, family, plan):
    rng = Random(seed)
    lesson = LESSONS[family](rng)
    lines = attempt(lesson.start, rng, plan=plan)
    text = "\n\n".join(line.text for line in lines)
    entry = {"metadata": metadata(lesson), "answer": str(lesson.gold)}
    assert exam.is_right(family, entry, text) == documents.is_right(lesson, lines)
    for line in lines[:-1]:
        head, _, equation = line.text.partition(": ")
        left, _, right = equation.partition(" = ")
        result, _, word = right.partition(", ")
        assert parse(left)[0] == parse(result)[0], line.text
        assert word == hit_or_miss(lesson, line, result), line.text
        assert head.startswith("Use ")
        assert not states_answer(line.text)
    assert states_answer(lines[-1].text)


@given(st.integers(0, 2**32), st.sampled_from(sorted(LESSONS)))
def test_every_line_starts_from_the_state_that_the_line_before_left(seed, family):
    rng = Random(seed)
    lesson = LESSONS[family](rng)
    lines = attempt(lesson.start, rng, plan=False)
    for before, line in pairwise(lines[:-1]):
        assert line.text.removeprefix("Use ").startswith(before.text.rpartition(" = ")[2])
    if family == "countdown":
        assert all(f" to make {lesson.gold}: " in line.text for line in lines[:-1])


def test_a_planned_attempt_at_countdown_is_always_right_and_a_guessed_one_often_wrong():
    rng = Random(3)
    lessons = [countdown.lesson(rng) for _ in range(200)]
    planned = [documents.is_right(one, attempt(one.start, rng, plan=True)) for one in lessons]
    guessed = [documents.is_right(one, attempt(one.start, rng, plan=False)) for one in lessons]
    assert sum(planned) >= 170  # the last step is overlooked one time in ten
    assert 20 < sum(guessed) < 130


def test_no_lesson_is_held_out_and_one_problem_in_four_is():
    rng = Random(5)
    lessons = [make(rng) for make in LESSONS.values() for _ in range(500)]
    assert not any(is_held_out(lesson.family, metadata(lesson)) for lesson in lessons)
    assert not {lesson.question for lesson in lessons} & {
        e["question"].strip() for f in LESSONS for e in exam.problems(f, 50)
    }
    data = reasoning_gym.create_dataset("countdown", seed=1, size=800, **FAMILIES["countdown"])
    assert 140 < sum(is_held_out("countdown", data[i]["metadata"]) for i in range(800)) < 260
    assert is_held_out("countdown", {"numbers": [1, 2, 3], "target": 9}) == is_held_out(
        "countdown", {"numbers": [3, 1, 2], "target": 9}
    )


def test_plain_documents_never_reflect_and_practice_never_follows_a_plain_question():
    marks = [documents.RETRY, documents.BACK, *documents.CHECK.values(), *RESERVED]
    practice = 0
    for document in islice(documents.stream(11), 600):
        text = "".join(span.text for span in document)
        assert not any(phrase in text for phrase in RESERVED)
        if text.startswith(documents.HEADER):
            practice += 1
        else:
            assert not any(mark in text for mark in marks)
    assert 200 < practice < 450


def test_falsified_lines_are_never_learned():
    seen = 0
    for document in islice(documents.stream(13), 2000):
        for span in document:
            equation = span.text.strip().partition(": ")[2]
            left, sign, right = equation.partition(" = ")
            result = right.partition(", ")[0]
            step = sign and span.text.startswith("Use ") and "\n\n" not in right
            if step and parse(left)[0] != parse(result)[0]:
                assert not span.learn
                seen += 1
    assert seen > 20


@given(st.integers(0, 2**32), st.sampled_from(sorted(LESSONS)))
def test_falsified_attempts_end_too_and_are_never_right(seed, family):
    rng = Random(seed)
    lesson = LESSONS[family](rng)
    lines = attempt(lesson.start, rng, plan=False, slip=True)
    assert lines[-1].text.startswith("Answer: ")
    if not all(line.honest for line in lines):
        assert not documents.is_right(lesson, lines)


def test_practice_ends_with_its_only_verdict_and_that_is_true():
    """An attempt behind a verdict would teach to go on because something was wrong: SFT's part, not the base's."""
    judged = dict.fromkeys(documents.CHECK.values(), 0)
    for seed in range(600):
        texts = [span.text.strip() for span in documents.practice(Random(seed))]
        verdicts = [at for at, text in enumerate(texts) if text in judged]
        assert verdicts == [len(texts) - 1]
        judged[texts[-1]] += 1
        answer = [text for text in texts if text.startswith("Answer: ")][-1]
        if texts[0].startswith(f"{documents.HEADER}\n\nState"):
            gold = parse(texts[0].partition(": ")[2].removesuffix(" ="))[0]
            right = parse(answer.removeprefix("Answer: "))[0] == gold
        else:
            right = [text for text in texts if text.startswith("Use ")][-1].endswith(", hit")
        assert right == (texts[-1] == documents.CHECK[True])
    assert min(judged.values()) > 150


# --- expressions ---


@given(
    st.recursive(
        st.integers(0, 99).map(str),
        lambda e: st.tuples(e, st.sampled_from("+-*/"), e).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    )
)
def test_expressions_are_read_exactly(text):
    from fractions import Fraction

    def oracle(node):
        import ast

        if isinstance(node, ast.Constant):
            return Fraction(node.value)
        left, right = oracle(node.left), oracle(node.right)
        kinds = {ast.Add: left.__add__, ast.Sub: left.__sub__, ast.Mult: left.__mul__, ast.Div: left.__truediv__}
        return kinds[type(node.op)](right)

    import ast

    try:
        expected = oracle(ast.parse(text, mode="eval").body)
    except ZeroDivisionError:
        assert parse(text) is None
        return
    if text.count("(") < 20:
        assert parse(text)[0] == expected


@given(st.text(max_size=60))
def test_no_text_upsets_the_reader_of_expressions(text):
    parse(text)


@pytest.mark.parametrize(
    "text", ["", "(", "1 +", "1 2", "()", "__import__('os')", "9**9", "1/0", "(" * 5000 + "1", "2 x 3", "x"]
)
def test_what_is_no_expression_is_none(text):
    assert parse(text) is None


# --- tokenizer ---


@settings(max_examples=300)
@given(st.text(max_size=80))
def test_any_text_survives_the_tokenizer(text):
    built = _WORDS
    assert built.decode(built.encode(text).ids, skip_special_tokens=False) == text


_WORDS = tokenizer.build()


def test_documents_and_questions_survive_and_need_no_bytes(words):
    texts = ["".join(span.text for span in document) for document in islice(documents.stream(99), 300)]
    texts += [entry["question"].strip() for family in FAMILIES for entry in exam.problems(family, 30)]
    for text in texts:
        ids = words.encode(text).ids
        assert words.decode(ids) == text
        bytes_used = {words.id_to_token(i) for i in ids if len(words.id_to_token(i)) == 1}
        assert not bytes_used - set("0123456789()"), bytes_used


def test_fixed_phrases_and_the_blank_line_are_one_token_each(words):
    for phrase in (REFLECTION, VERDICT_BAD, VERDICT_GOOD, GO_BACK, RESTART, "\n\n"):
        assert len(words.encode(phrase).ids) == 1, phrase
    jump = f"{GO_BACK} use 4, 5, 6 to make 7: 6 - 5 = 1 ...\n\nUse 1, 4 to make 7: 4 + 1 = 5"
    said = words.encode(jump)
    assert len(said.ids) <= 30
    assert words.decode(said.ids) == jump


def test_steps_joined_are_the_tokens_of_steps_alone(words):
    """The state is the prompt's tokens plus the steps', never tokenised again: both ways must agree."""
    for document in islice(documents.stream(21), 200):
        text = "".join(span.text for span in document)
        steps = [step + "\n\n" for step in text.split("\n\n")]
        apart = [i for step in steps for i in words.encode(step).ids]
        if "instructions" not in text:
            assert apart == words.encode(text + "\n\n").ids
        assert [i for span in document for i in words.encode(span.text).ids] == words.encode(text).ids


def test_questions_are_in_reasoning_gyms_own_words():
    for family in FAMILIES:
        for entry in exam.problems(family, 20):
            if family == "chain_sum":
                mine = {chain.QUESTION.format(expression=entry["metadata"]["expression"])}
            else:
                numbers, target = entry["metadata"]["numbers"], entry["metadata"]["target"]
                mine = {countdown.question(numbers, target, wording) for wording in range(3)}
            assert entry["question"].strip() in mine


# --- the trainer ---


def test_the_first_weights_look_back_and_copy(words):
    """Before any training: heads of the first layer look 1, 2, 3 tokens back, and a line begun again is half known."""
    import torch

    recipe = architecture.SIZES["tiny"]
    model = architecture.model(
        recipe, words.get_vocab_size(), *tokenizer.end_and_pad(words), tokenizer.values(words)
    ).eval()
    model.set_attn_implementation("eager")
    rng = Random(0)
    near, seen = 0, 0
    for _ in range(10):
        head, tail = documents.echo(rng)[0].text, documents.echo(rng)[0].text
        ids = words.encode(head + head).ids
        half = len(ids) // 2
        with torch.no_grad():
            out = model(input_ids=torch.tensor([ids]), use_cache=False, output_attentions=True)
        for offset in (1, 2, 3):
            assert out.attentions[0][0, offset - 1].diagonal(-offset)[5:].mean() > 0.5
        for at in range(half + 4, len(ids) - 1):
            seen += 1
            near += ids[at + 1] in out.logits[0, at].topk(3).indices.tolist()
        assert head != tail
    assert near / seen > 0.4


def test_rows_start_with_a_question_and_hold_whole_labels(words):
    starts = [words.encode(text).ids[0] for text in ("Practice.", "Using all the numbers ", "Find a way to make ")]
    starts += [words.encode(text).ids[0] for text in ("Calculate ", chain.QUESTION.partition("{")[0])]
    for ids, labels in islice(bootstrap.rows(words, 3, architecture.SHORT), 50):
        assert len(ids) == len(labels) == architecture.SHORT
        assert ids[0] in starts
        assert all(label in (token, bootstrap.IGNORED) for token, label in zip(ids, labels, strict=True))


def test_training_lowers_the_loss_and_its_report_is_on_the_card(made):
    out, report = made
    assert report.loss < 5.5  # ln(vocabulary) = 6.5 at the start
    text = (out / "README.md").read_text("utf-8")
    assert "factory bootstrap" in text
    assert f"{report.grades['countdown'].rate:.3f}" in text
    assert json.loads((out / "config.json").read_text("utf-8"))["factory_format"] == "plain"
    assert sorted(path.name for path in out.parent.iterdir()) == ["model"]  # nothing temporary is left


def test_the_same_recipe_is_found_again_and_another_is_not(made):
    out, report = made
    before = (out / "model.safetensors").stat().st_mtime_ns
    assert bootstrap.run(out, recipe=MINI, threads=1) == report
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    assert bootstrap.cached(out, msgspec.structs.replace(MINI, seed=1)) is None
    assert bootstrap.cached(out.parent / "nothing", MINI) is None


def test_a_half_written_directory_is_no_finished_policy(made, tmp_path):
    out, _ = made
    (tmp_path / bootstrap.REPORT).write_bytes((out / bootstrap.REPORT).read_bytes())
    assert bootstrap.cached(tmp_path, MINI) is None
    (tmp_path / bootstrap.REPORT).write_text("{", "utf-8")
    assert bootstrap.cached(tmp_path, MINI) is None


@pytest.mark.slow
def test_the_same_recipe_gives_the_same_weights(made, tmp_path):
    out, _ = made
    bootstrap.run(tmp_path / "again", recipe=MINI, threads=1)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_an_unknown_size_and_an_unwritable_place_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(bootstrap.BadBootstrap, match="there are tiny, mini"):
        bootstrap.run(tmp_path / "x", size="huge")
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(bootstrap.BadBootstrap, match="cannot be written"):
        bootstrap.run(tmp_path / "file" / "x", size="mini")


# --- the packaged policy ---


def test_the_packaged_policy_is_small_and_opens_as_any_policy_does():
    from transformers import AutoModelForCausalLM

    assert (PACKAGED / "model.safetensors").stat().st_size <= 4_000_000
    chat = Chat(str(PACKAGED), PolicySection())
    assert not chat.instruct
    question = exam.problems("countdown", 1)[0]["question"]
    ids = chat.prompt_ids(question)
    assert chat.decode(ids) == question.strip() + "\n\n"
    assert len(ids) < 20
    model = AutoModelForCausalLM.from_pretrained(str(PACKAGED))
    assert model.config.max_position_embeddings >= 512
    assert model.config.vocab_size >= len(chat.tokenizer)
    assert chat.tokenizer.get_vocab() == _WORDS.get_vocab()


def test_the_packaged_policy_was_made_by_todays_recipe():
    report = bootstrap.cached(PACKAGED, architecture.SIZES["tiny"])
    assert report is not None, "run `factory bootstrap` and commit trainers/tiny/model"
    assert report.core_seconds <= 2 * 480  # eight minutes of two cores
    assert (PACKAGED / "README.md").read_text("utf-8") == card.text(report)
    for grade in report.grades.values():
        assert 0.2 <= grade.rate <= 0.6
        assert grade.problems >= 200


@pytest.mark.slow
def test_the_packaged_policy_solves_what_its_card_says():
    """60 fresh held-out problems a family: the pass rate lies in the wide band, and a practised skill is there."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(PACKAGED), dtype="float32").eval()
    for family in FAMILIES:
        asked = exam.problems(family, 60, seed=4_242_424)
        texts, _ = exam.answer(model, _WORDS, [entry["question"] for entry in asked], seed=1)
        right = sum(exam.is_right(family, entry, text) is True for entry, text in zip(asked, texts, strict=True))
        assert 6 <= right <= 45, f"{family}: {right} of 60"
        assert len(set(texts)) > 50
    rng = Random(1)
    made = [probes.copying(LESSONS["countdown"](rng), 3, rng) for _ in range(40)]
    assert probes.passed(model, _WORDS, made) > 0.9
