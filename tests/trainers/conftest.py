"""A random tiny Llama with a character tokenizer, and a data directory with a real sink behind a real broker."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from running import Factory, Trainer
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

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
