"""Turns of the versions on one engine: order, separation, patience, and that nobody starves, on random arrivals."""

from hypothesis import given
from hypothesis import strategies as st

from processors.engine_queue import Turns

SHAS = ("a", "b", "c")


def test_a_lone_sha_never_pauses() -> None:
    turns: Turns[int] = Turns(1.0)
    for number in range(10):
        turns.add("a", number, 0.0)
    assert turns.turn(0.0, 0) == "a"
    assert turns.admit(500.0, 4) == [0, 1, 2, 3]
    assert turns.turn(900.0, 4) is None
    assert turns.admit(900.0, 99) == [4, 5, 6, 7, 8, 9]
    assert len(turns) == 0


def test_another_sha_waits_patiently_then_admission_stops_and_it_is_served_when_drained() -> None:
    turns: Turns[str] = Turns(2.0)
    turns.add("a", "a1", 0.0)
    turns.turn(0.0, 0)
    assert turns.admit(0.0, 9) == ["a1"]
    turns.add("b", "b1", 1.0)
    turns.add("a", "a2", 2.0)
    assert turns.admit(2.9, 9) == ["a2"], "b has not waited long enough"
    turns.add("a", "a3", 3.0)
    assert turns.admit(3.0, 9) == [], "b has waited 2 s"
    assert turns.turn(3.5, 2) is None, "a1 and a2 still run"
    assert turns.turn(4.0, 0) == "b"
    assert turns.admit(4.0, 9) == ["b1"]
    assert turns.turn(5.0, 0) == "a", "b has nothing left"
    assert turns.admit(5.0, 9) == ["a3"]


def test_the_turn_goes_to_the_oldest_request() -> None:
    turns: Turns[int] = Turns(0.0)
    for number, sha in enumerate("abcab"):
        turns.add(sha, number, float(number))
    order = []
    while len(turns):
        turns.turn(9.0, 0)
        order.append((turns.current, turns.admit(9.0, 1)))
    assert order == [("a", [0]), ("b", [1]), ("c", [2]), ("a", [3]), ("b", [4])]


def test_a_refused_sha_gives_the_turn_back() -> None:
    turns: Turns[str] = Turns(0.0)
    turns.add("a", "a1", 0.0)
    turns.turn(0.0, 0)
    turns.admit(0.0, 9)
    turns.add("b", "b1", 1.0)
    turns.add("b", "b2", 1.0)
    assert turns.turn(2.0, 0) == "b"
    assert turns.refuse("b", "a") == ["b1", "b2"]
    turns.add("a", "a2", 3.0)
    assert turns.turn(3.0, 0) is None, "a is loaded still"
    assert turns.admit(3.0, 9) == ["a2"]


def test_unwanted_items_leave() -> None:
    turns: Turns[int] = Turns(1.0)
    for number in range(6):
        turns.add("ab"[number % 2], number, 0.0)
    assert sorted(turns.remove(lambda number: number % 3 == 0)) == [0, 3]
    assert len(turns) == 4


arrivals = st.lists(st.tuples(st.integers(0, 40), st.sampled_from(SHAS)), min_size=1, max_size=60)


@given(arrivals=arrivals, patience=st.integers(0, 10), room=st.integers(1, 5), takes=st.integers(1, 6))
def test_every_request_is_served_once_in_order_and_in_time(
    arrivals: list[tuple[int, str]], patience: int, room: int, takes: int
) -> None:
    """A small engine driven a tick a second: what runs always belongs to the loaded sha."""
    waiting = sorted(arrivals)
    turns: Turns[tuple[int, str, int]] = Turns(float(patience))
    running: list[tuple[int, str]] = []  # (ends, sha)
    served: dict[str, list[int]] = {sha: [] for sha in SHAS}
    waits: list[int] = []
    now = number = 0
    while waiting or running or len(turns):
        while waiting and waiting[0][0] <= now:
            at, sha = waiting.pop(0)
            turns.add(sha, (at, sha, number), float(at))
            number += 1
        running = [run for run in running if run[0] > now]
        if turns.turn(float(now), len(running)) is not None:
            assert not running, "weights changed under a running request"
        admitted = turns.admit(float(now), room - len(running))
        assert len(admitted) + len(running) <= room
        for at, sha, index in admitted:
            assert sha == turns.current
            served[sha].append(index)
            waits.append(now - at)
            running.append((now + takes, sha))
        assert running or not len(turns), "idle although somebody waits"
        assert {sha for _, sha in running} <= {turns.current}
        now += 1
        assert now < 10_000, "somebody starves"
    assert sum(map(len, served.values())) == len(arrivals)
    assert all(indices == sorted(indices) for indices in served.values()), "first come, first served within a sha"


@given(patience=st.integers(1, 10), flood=st.integers(1, 5))
def test_a_flood_of_one_sha_does_not_starve_another(patience: int, flood: int) -> None:
    """Endless arrivals of 'a'; 'b' is reached after at most its patience and one drain."""
    turns: Turns[str] = Turns(float(patience))
    turns.add("a", "a", 0.0)
    turns.turn(0.0, 0)
    turns.add("b", "b", 0.0)
    running = 0
    for now in range(1, 60):
        for _ in range(flood):
            turns.add("a", "a", float(now))
        if turns.turn(float(now), running) == "b":
            assert turns.admit(float(now), 9) == ["b"]
            assert now <= patience + 2
            return
        running = len(turns.admit(float(now), 9))  # each takes one tick
    raise AssertionError("b was never reached")
