"""The topics, each with its message type, key and settings: brokers, sinks, tables and docs are made from this list."""

from operator import attrgetter

import msgspec

from schemas import messages as m
from schemas.replay import Replay
from schemas.settings import Settings


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """A topic and the table of the same name ('.' becomes '_' there)."""

    name: str
    message: type[m.Message]
    key: str
    """The field (dotted path) that keys the record."""
    id: str = "id"
    """The field that identifies a row: the first committed copy of an id is the visible one."""
    consumers: tuple[str, ...] = ()
    """The groups (stages) that consume it, sinks aside."""
    sizing: str = "default"
    """Which [topics] setting gives its partition count."""

    @property
    def table(self) -> str:
        """The dataset's name."""
        return self.name.replace(".", "_")

    def partitions(self, settings: Settings) -> int:
        """How many partitions it is created with."""
        return int(getattr(settings.topics, f"{self.sizing}_partitions"))


TOPICS: tuple[Topic, ...] = (
    Topic(name="problems", message=m.Problem, key="id", consumers=("search",), sizing="problems"),
    Topic(name="trees", message=m.Tree, key="problem.id", consumers=("linearize",)),
    Topic(name="traces", message=m.Trace, key="id", consumers=("verify",)),
    Topic(name="examples", message=m.Example, key="id"),
    Topic(name="prompts", message=m.Prompt, key="id", consumers=("sample",), sizing="prompts"),
    Topic(name="rollouts", message=m.RolloutGroup, key="id", consumers=("verify",)),
    Topic(name="rewards", message=m.RewardGroup, key="id", consumers=("rl",)),
    Topic(name="weights", message=m.Weights, key="policy", id="version", sizing="single"),
    Topic(name="answers", message=m.Answers, key="id"),
    Topic(name="evaluations", message=m.Evaluation, key="id", sizing="single"),
    Topic(name="training", message=m.TrainingStep, key="run", sizing="single"),
    Topic(name="filtered", message=m.Filtered, key="input_id", sizing="single"),
    Topic(name="dead.letters", message=m.DeadLetter, key="id", sizing="single"),
    Topic(name="replays", message=Replay, key="row_id", sizing="single"),
)

BY_NAME: dict[str, Topic] = {topic.name: topic for topic in TOPICS}
BY_MESSAGE: dict[type[m.Message], Topic] = {topic.message: topic for topic in TOPICS}


def message_id(message: m.Message) -> str:
    """The row id of a message (the topic's id field, as text)."""
    return str(getattr(message, BY_MESSAGE[type(message)].id))


def message_key(message: m.Message) -> bytes:
    """The record key of a message."""
    return str(attrgetter(BY_MESSAGE[type(message)].key)(message)).encode()
