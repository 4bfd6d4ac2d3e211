from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from processors.chat import BadPolicy
from trainers.model import forward, packing, token_logp
from trainers.packing import Row, pack, plan, stack

VOCABULARY = 50
WAYS = ("lines", "padded", "packed")
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(tie_word_embeddings=True, **SHAPE)).eval()


@st.composite
def documents(draw):
    count = draw(st.integers(1, 12))
    rows = []
    for _ in range(count):
        ids = draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=30))
        start = draw(st.integers(1, len(ids)))
        behaviour = [-float(i) - 0.5 for i in range(len(ids) - start)]
        rows.append(Row(ids, start, advantage=draw(st.floats(-2, 2, width=32)), behaviour=behaviour))
    return rows


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("how", WAYS)
@given(rows=documents(), budget=st.integers(1, 200))
def test_every_trained_token_is_there_once_with_what_belongs_to_it(how, world, rows, budget) -> None:
    every = [pack(rows, budget, how, rank=rank, world=world) for rank in range(world)]
    assert len({len(batches) for batches in every}) == 1, "every rank has as many"
    batches = [batch for some in every for batch in some if batch.rows]
    assert sorted(i for batch in batches for i in batch.rows) == [i for i, row in enumerate(rows) if row.trained]
    for batch in batches:
        height, width = batch.input_ids.shape
        assert height * width <= budget or len(batch.rows) == 1
        for number, index in enumerate(batch.rows):
            row, mine = rows[index], batch.sequence == number
            [line] = batch.at_row[mine].unique()
            begin = int(batch.at_col[mine][0]) + 1 - row.loss_from
            its = slice(begin, begin + len(row.ids))
            assert batch.input_ids[line, its].tolist() == list(row.ids)
            if how == "padded":
                assert (begin, batch.positions) == (0, None)
            else:
                assert batch.positions[line, its].tolist() == list(range(len(row.ids)))
                assert (*batch.positions[line].tolist(), 0)[its.stop] == 0, "another begins, or padding"
            assert batch.targets[mine].tolist() == list(row.ids[row.loss_from :])
            assert (batch.at_col[mine] + 1 - begin).tolist() == list(range(row.loss_from, len(row.ids)))
            assert batch.advantages[mine].tolist() == pytest.approx([row.advantage] * row.trained)
            assert batch.behaviour[mine].tolist() == pytest.approx(list(row.behaviour))
    if how == "packed" and world == 1:
        widths = [batch.input_ids.shape[1] for batch in batches]
        assert all(a + b > budget for a, b in pairwise(widths)), "no two would fit into one"


def test_lines_have_few_shapes_and_little_padding() -> None:
    rng, shapes, tokens, padded = Random(0), set(), 0, 0
    for _ in range(100):
        lengths = [rng.randrange(40, 175) for _ in range(38)]
        for width, lines in stack(lengths, 4608):
            shapes.add((len(lines), width))
            padded += len(lines) * width
        tokens += sum(lengths)
    assert len(shapes) < 35, "rows of like lengths side by side have 200"
    assert tokens > 0.85 * padded


@pytest.mark.parametrize("how", WAYS)
@settings(max_examples=25, deadline=None)
@given(documents(), st.integers(30, 200))
def test_a_row_scores_the_same_in_company_as_alone(model, how, rows, budget) -> None:
    for batch in pack(rows, budget, how):
        with torch.no_grad():
            together, _ = token_logp(forward(model, batch), batch.targets)
            for line, index in enumerate(batch.rows):
                row = rows[index]
                logits = model(input_ids=torch.tensor([list(row.ids)])).logits[0]
                alone = torch.log_softmax(logits, -1)[range(len(row.ids) - 1), list(row.ids[1:])]
                mine = together[batch.sequence == line]
                torch.testing.assert_close(mine, alone[row.loss_from - 1 :], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("how", ["lines", "packed"])
def test_a_document_cannot_change_its_neighbours(model, how) -> None:
    rows = [Row([1, 2, 3, 4, 5, 6]), Row([7, 8, 9, 10]), Row([11, 12])]
    (batch,) = pack(rows, 100, how)
    assert len(batch.input_ids) == 1
    other = replace(batch, input_ids=batch.input_ids.clone())
    other.input_ids[0, 6:10] = torch.tensor([20, 21, 22, 23])
    with torch.no_grad():
        before, after = (forward(model, one) for one in (batch, other))
    changed = batch.sequence == 1
    assert torch.equal(before[~changed], after[~changed])
    assert not torch.isclose(before[changed], after[changed]).all(-1).any()


@pytest.mark.parametrize("how", WAYS)
def test_neighbours_have_no_gradient_on_each_other(model, how) -> None:
    rows = [Row([1, 2, 3, 4, 5]), Row([6, 7, 8])]
    (batch,) = pack(rows, 100, how)
    logp, _ = token_logp(forward(model, batch), batch.targets)
    model.zero_grad()
    logp[batch.sequence == 0].sum().backward()
    inside = model.model.layers[0].self_attn.v_proj.weight.grad.clone()
    (alone,) = pack(rows[:1], 100)
    model.zero_grad()
    token_logp(forward(model, alone), alone.targets)[0].sum().backward()
    torch.testing.assert_close(inside, model.model.layers[0].self_attn.v_proj.weight.grad, atol=1e-5, rtol=1e-4)


def test_rows_of_a_line_are_apart_under_a_sliding_window(model) -> None:
    config = MistralConfig(sliding_window=4, attn_implementation="eager", **SHAPE)
    torch.manual_seed(0)
    windowed = MistralForCausalLM(config).eval()
    rows = [Row(list(range(1, 20))), Row(list(range(20, 31))), Row(list(range(31, 40)))]
    assert packing(windowed, "auto") == "lines"
    (batch,) = pack(rows, 200, "lines")
    with torch.no_grad():
        together, _ = token_logp(forward(windowed, batch), batch.targets)
        for number, index in enumerate(batch.rows):
            (alone,) = pack([rows[index]], 200, "padded")
            expected, _ = token_logp(forward(windowed, alone), alone.targets)
            torch.testing.assert_close(together[batch.sequence == number], expected, atol=2e-5, rtol=1e-5)


def test_rows_share_a_line_where_attention_alone_joins_tokens(model) -> None:
    assert packing(model, "auto") == "lines"
    recurrent = MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1))
    assert packing(recurrent, "auto") == "padded"
    for wanted in ("lines", "packed"):
        with pytest.raises(BadPolicy, match=f"packing = '{wanted}'.*'auto'"):
            packing(recurrent, wanted)


def test_rows_of_a_model_that_attends_in_chunks_have_a_line_each(model, monkeypatch) -> None:
    monkeypatch.setattr(model.config, "layer_types", ["full_attention", "chunked_attention"], raising=False)
    assert packing(model, "auto") == "padded"


def test_the_hook_leaves_the_model_as_it_was(model) -> None:
    (batch,) = pack([Row([1, 2, 3])], 10)
    forward(model, batch)
    assert model(input_ids=batch.input_ids).logits.shape == (1, 3, VOCABULARY)


@given(st.lists(st.integers(1, 100), max_size=60), st.integers(100, 400))
def test_padding_is_bounded(lengths, budget) -> None:
    groups = plan(lengths, budget)
    padded = sum(max(lengths[i] for i in group) * len(group) for group in groups)
    # Sorted rows: a group wastes at most what its longest and shortest differ by, so all together one group's worth.
    assert padded <= sum(lengths) + budget
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))


def test_large_micro_batches_hold_rows_of_like_lengths() -> None:
    lengths = [n for n in range(40, 160) for _ in range(4)]
    groups = plan(lengths, 4096)
    padded = sum(max(lengths[i] for i in group) * len(group) for group in groups)
    assert padded < 1.1 * sum(lengths)
    assert len(groups) < 40


@pytest.mark.parametrize(("ids", "start", "behaviour"), [([1, 2], 0, []), ([1, 2], 3, []), ([1, 2, 3], 1, [-1.0])])
def test_a_row_that_makes_no_sense_is_refused(ids, start, behaviour) -> None:
    with pytest.raises(ValueError, match=r"loss_from|log-probs"):
        Row(ids, start, behaviour=behaviour)


def test_a_row_without_loss_is_left_out() -> None:
    assert pack([Row([1, 2, 3], 3), Row([4])], 10) == []
