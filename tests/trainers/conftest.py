"""A random tiny Llama with a character tokenizer, and a data directory with a real sink behind a real broker."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from processors import kafka
from processors.dataset import Datasets
from processors.sink import Sink
from processors.status import Status
from schemas.codec import decode
from schemas.topics import BY_MESSAGE, BY_NAME, TOPICS

CHARACTERS = "\n 0123456789+-*/=?:,.abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
TEMPLATE = "{{ bos_token }}{{ messages[-1]['content'] }}\n"


def tokenizer() -> PreTrainedTokenizerFast:
    names = ["<pad>", "<s>", "</s>", "<unk>", *CHARACTERS]
    raw = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> Callable[..., Path]:
    """llama(dtype) gives the directory of a random model with 3 layers, saved in that dtype."""
    made: dict[str, Path] = {}

    def make(dtype: str = "float32") -> Path:
        if dtype not in made:
            made[dtype] = tmp_path_factory.mktemp("llama") / dtype
            torch.manual_seed(1)
            config = LlamaConfig(
                vocab_size=4 + len(CHARACTERS),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=256,
                tie_word_embeddings=True,
                initializer_range=0.1,
                bos_token_id=1,
                eos_token_id=2,
                factory_format="plain",
            )
            LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(made[dtype])
            tokenizer().save_pretrained(made[dtype])
        return made[dtype]

    return make


class Factory:
    """Settings with a broker, tables and a running sink."""

    def __init__(self, settings) -> None:
        self.settings = settings
        self.datasets = Datasets(Path(settings.factory.data) / "datasets")
        self.datasets.create()
        self.stopping = threading.Event()
        sink = Sink(settings, self.datasets, [topic.name for topic in TOPICS], Status(settings, "sink"))
        self.thread = threading.Thread(target=sink.session, args=(self.stopping,))
        self.thread.start()

    def send(self, *messages) -> None:
        producer = kafka.producer(self.settings)
        futures = [kafka.send(producer, message) for message in messages]
        for future in futures:
            future.get(30)
        producer.close()

    def table(self, *messages) -> None:
        """Send messages and wait until they are rows."""
        self.send(*messages)
        name = BY_MESSAGE[type(messages[0])].table
        wanted = {message.id for message in messages}
        until(lambda: wanted <= self.datasets.ids(name))

    def topic(self, kind) -> list:
        """Every message of a topic."""
        name = BY_MESSAGE[kind].name
        return [decode(record.value, BY_NAME[name].message) for record in kafka.tail(self.settings, name, {})]

    def rows(self, kind, where: str = "") -> list:
        return list(self.datasets.messages(kind, where))

    def close(self) -> None:
        self.stopping.set()
        self.thread.join(30)


def until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


@pytest.fixture
def make_factory(factory_settings, llama) -> Iterator[Callable[..., Factory]]:
    """make_factory("sft.lr=1", ...) gives a running Factory with the random policy."""
    made: list[Factory] = []

    def make(*flags: str, dtype: str = "float32") -> Factory:
        small = ("sink.flush_s=0.2", "topics.default_partitions=2", f"policy.path={llama(dtype)}")
        made.append(Factory(factory_settings(*small, *flags)))
        return made[-1]

    yield make
    for factory in made:
        factory.close()


class Trainer:
    """A trainer's `run` in a thread, as its process would run it."""

    def __init__(self, main, settings, stage: str) -> None:
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self.status = Status(settings, stage)
        self.thread = threading.Thread(target=self._run, args=(main, settings))
        self.thread.start()

    def _run(self, main, settings) -> None:
        try:
            main(settings, self.status, self.stop)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def end(self) -> None:
        self.stop.set()
        self.thread.join(60)
        assert not self.thread.is_alive()
        if self.error:
            raise self.error

    def until(self, condition, seconds: float = 60.0) -> None:
        until(lambda: self.error is not None or condition(), seconds)
        if self.error:
            raise self.error


@pytest.fixture
def start() -> Iterator[Callable[..., Trainer]]:
    """start(sft.run, settings, "sft") gives a running Trainer, stopped after the test."""
    made: list[Trainer] = []

    def begin(main, settings, stage: str) -> Trainer:
        made.append(Trainer(main, settings, stage))
        return made[-1]

    yield begin
    for trainer in made:
        trainer.stop.set()
        trainer.thread.join(60)
