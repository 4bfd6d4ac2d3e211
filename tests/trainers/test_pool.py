from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.packing import Row
from trainers.pool import Pool

lengths = st.lists(st.integers(1, 20), min_size=1, max_size=25)


def pool_of(lengths, epochs, seed=0, seen=()) -> Pool:
    pool = Pool(seed, epochs, dict(seen))
    for index, length in enumerate(lengths):
        pool.add(str(index), Row([1] * length))
    return pool


def run(pool, budget) -> list[list[str]]:
    batches = []
    while batch := pool.draw(budget, partial=True):
        batches.append(batch)
        pool.trained(batch)
    return batches


@given(lengths, st.integers(1, 3), st.integers(1, 60), st.integers(0, 5))
def test_every_row_is_seen_exactly_epochs_times_and_batches_keep_the_budget(lengths, epochs, budget, seed) -> None:
    batches = run(pool_of(lengths, epochs, seed), budget)
    assert Counter(key for batch in batches for key in batch) == {str(i): epochs for i in range(len(lengths))}
    for batch in batches:
        assert len(set(batch)) == len(batch)
        assert sum(lengths[int(key)] for key in batch) <= budget or len(batch) == 1


@given(lengths, st.integers(1, 60), st.integers(0, 5), st.randoms())
def test_the_order_does_not_depend_on_the_order_of_arrival(lengths, budget, seed, random) -> None:
    order = list(range(len(lengths)))
    random.shuffle(order)
    other = Pool(seed, 2, {})
    for index in order:
        other.add(str(index), Row([1] * lengths[index]))
    assert run(other, budget) == run(pool_of(lengths, 2, seed), budget)


@given(lengths, st.integers(1, 60), st.integers(0, 10))
def test_a_pool_that_knows_what_was_seen_goes_on_where_the_other_stopped(lengths, budget, count) -> None:
    batches = run(pool_of(lengths, 2), budget)
    seen = Counter(key for batch in batches[:count] for key in batch)
    assert run(pool_of(lengths, 2, seen=seen), budget) == batches[count:]
    replayed = pool_of(lengths, 2)
    for batch in batches[:count]:
        replayed.trained(batch)
    assert run(replayed, budget) == batches[count:]


def test_rows_that_do_not_fill_a_batch_wait_unless_asked_for() -> None:
    pool = pool_of([5, 5], 1)
    assert pool.draw(11) == []
    assert sorted(pool.draw(11, partial=True)) == ["0", "1"]
    assert sorted(pool.draw(10)) == ["0", "1"]
    pool.add("new", Row([1] * 3))
    assert len(pool.draw(11)) == 2
    assert pool.draw(11) == pool.draw(11)


def test_new_rows_come_before_old_ones() -> None:
    pool = pool_of([5, 5], 2)
    pool.trained(pool.draw(10))
    pool.add("new", Row([1] * 5))
    assert pool.draw(5) == ["new"]


def test_a_fractional_epoch_is_a_share_of_the_rows() -> None:
    pool = pool_of([1] * 400, 1.5)
    twice = sum(pool.cap(str(i)) == 2 for i in range(400))
    assert {pool.cap(str(i)) for i in range(400)} == {1, 2}
    assert 150 < twice < 250


@settings(deadline=None)
@given(lengths, st.data())
def test_rows_that_are_left_out_are_not_drawn_and_come_back_once(lengths, data) -> None:
    keys = [str(index) for index in range(len(lengths))]
    pool = pool_of(lengths, 2)
    pool.trained(pool.draw(30, partial=True))
    for _ in range(3):
        out = data.draw(st.sets(st.sampled_from(keys)))
        pool.leave_out(out)
        drawn = pool.draw(10_000, partial=True)
        assert not set(drawn) & out
        assert len(set(drawn)) == len(drawn)
    pool.leave_out([])
    seen = Counter(pool._seen)
    for batch in run(pool, 30):
        seen.update(batch)
    assert seen == Counter(dict.fromkeys(keys, 2))
