"""What a trainer says is said until a table has it."""

import pytest
from running import until

from schemas.messages import Filtered, Weights
from trainers.outbox import Outbox


def filtered(number: int) -> Filtered:
    return Filtered(id=str(number), stage="rl", input_topic="rewards", input_id=str(number), why="stale")


def version(number: int) -> Weights:
    return Weights(policy="policy", version=number, parent=number - 1, path="p", sha256=str(number), trainer="rl")


@pytest.fixture
def factory(make_factory):
    made = make_factory()
    made.stopping.set()  # no sink: what is sent does not reach a table
    made.thread.join()
    return made


def test_a_message_is_sent_again_until_its_row_is_there(factory) -> None:
    outbox = Outbox(factory.settings, factory.datasets, resend_s=0)
    outbox.send(filtered(1))
    outbox.flush()
    assert outbox.confirm() == 1
    outbox.flush()
    assert [row.id for row in factory.topic(Filtered)] == ["1", "1"]
    factory.start()
    until(lambda: outbox.confirm() == 0)
    assert outbox.unseen() == []
    assert [row.id for row in factory.rows(Filtered)] == ["1"]
    outbox.close()


def test_what_a_checkpoint_held_is_sent_unless_a_table_has_it(factory) -> None:
    first = Outbox(factory.settings, factory.datasets)
    first.send(filtered(1))
    first.send(version(3))
    first.flush()
    held = first.unseen()
    first.close()
    factory.start()
    until(lambda: {"1"} == factory.datasets.ids("filtered") and {"3"} == factory.datasets.ids("weights"))
    second = Outbox(factory.settings, factory.datasets)
    second.send(filtered(2))
    held += second.unseen()[-1:]
    second.close()
    third = Outbox(factory.settings, factory.datasets)
    third.restore(held)
    third.flush()
    assert [row.id for row in factory.topic(Filtered)].count("1") == 1
    assert [row.version for row in factory.topic(Weights)] == [3]
    third.close()


def test_the_newest_version_is_the_newest_that_anyone_announced_or_waits_to(factory) -> None:
    sft = Outbox(factory.settings, factory.datasets)
    assert sft.newest() is None
    sft.send(version(3))
    assert sft.newest() == version(3)
    rl = Outbox(factory.settings, factory.datasets)
    rl.send(version(4))
    rl.flush()
    sft.flush()
    assert sft.newest() == version(4)
    sft.close()
    rl.close()
