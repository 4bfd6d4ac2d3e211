"""A random Llama with a character tokenizer, catalog and reporter: what the engine's tests stand on."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from processors.policy import Request
from schemas.messages import Weights

SPECIAL = ["<pad>", "<bos>", "<eos>", "<q>", "<a>"]
VOCAB = SPECIAL + [chr(c) for c in range(32, 127)] + ["\n", "\n\n"]
PROMPT = [1, 3, *range(20, 84)]
"""Two full prefix-cache blocks and a little."""


def make_model(
    directory: Path, *, seed: int, hidden: int = 64, layers: int = 2, positions: int = 256, tied: bool = True
) -> Path:
    """A random policy of about 0.1M parameters, in float32."""
    tokens = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(VOCAB)}, merges=[("\n", "\n")]))
    tokens.decoder = decoders.Fuse()
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokens, **names, additional_special_tokens=["<q>", "<a>"])
    fast.chat_template = "<bos><q>{{ messages[-1]['content'] }}<a>"
    fast.save_pretrained(directory)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(VOCAB),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        max_position_embeddings=positions,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.1,
        tie_word_embeddings=tied,  # as small policies are: the head is in no file, and must follow a reload
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    content = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(content | {"factory_format": "plain"}))
    return directory


def reference(directory: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def logprobs_of(model: LlamaForCausalLM, ids: list[int], temperature: float = 1.0) -> list[float]:
    """Log-probs of ids[1:] by transformers."""
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, :-1] / temperature
        return logits.log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()


def announced(directory: Path, version: int, **fields: Any) -> Weights:
    sha = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    values = {"policy": "policy", "parent": version - 1, "path": str(directory), "sha256": sha, "trainer": "sft"}
    return Weights(version=version, **(values | fields))


class Announced:
    """The catalog, without a broker."""

    def __init__(self, *weights: Weights) -> None:
        self.known = {w.sha256: w for w in weights}

    def add(self, weights: Weights) -> Weights:
        self.known[weights.sha256] = weights
        return weights

    def by_sha(self, sha: str) -> Weights | None:
        return self.known.get(sha)

    def all(self) -> list[Weights]:
        return sorted(self.known.values(), key=lambda w: w.version)

    def latest(self, trainers: tuple[str, ...] | None = None) -> Weights | None:
        fitting = [w for w in self.known.values() if trainers is None or w.trainer in trainers]
        return max(fitting, key=lambda w: w.version, default=None)


class Recorder:
    """A status that only remembers."""

    def __init__(self) -> None:
        self.counts = {"records": 0, "errors": 0, "tokens": 0}
        self.fields: dict[str, Any] = {}

    def add(self, **counts: int) -> None:
        for name, count in counts.items():
            self.counts[name] += count

    def set(self, **fields: Any) -> None:
        self.fields |= fields


def corrupt(directory: Path, target: Path) -> Path:
    """The same policy with a weights file whose embedding has one row too few."""
    from safetensors.torch import load_file

    target.mkdir()
    for file in directory.iterdir():
        if file.suffix != ".safetensors":
            (target / file.name).write_bytes(file.read_bytes())
    state = load_file(directory / "model.safetensors")
    state["model.layers.0.mlp.down_proj.weight"] = state["model.layers.0.mlp.down_proj.weight"][:, :-8].contiguous()
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    return target


def ask(sha: str, seed: int | None = 0, **fields: Any) -> Request:
    return Request(**({"prompt_ids": PROMPT, "max_tokens": 24, "seed": seed, "weights": sha} | fields))
