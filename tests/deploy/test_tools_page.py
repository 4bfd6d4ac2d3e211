"""docs/tools.md as it stands: its commands and its Python run on real tables, and on a real published version."""

import importlib.util
from pathlib import Path

import pytest
import torch
from documented import blocks
from searched import append, fill
from transformers import AutoModelForCausalLM, AutoTokenizer

from processors.chat import resolve
from schemas.load import load
from trainers import model
from trainers.weights import Publication, publish

PAGE = "tools.md"
TRAINER = {"trl", "datasets"}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A directory with data/ (tables, a published version of the tiny policy) and policy/."""
    place = tmp_path_factory.mktemp("tools")
    datasets = fill(place / "data")
    base = Path(resolve("tiny"))
    (place / "policy").symlink_to(base)
    policy = model.load(base)
    with torch.no_grad():
        policy.model.norm.weight.mul_(1.001)
    row = publish(
        load(None, {}, [f"factory.data={place / 'data'}"]), policy, base, Publication(1, 0, "sft", "r", 7, "q")
    )
    append(datasets, [row])
    return place


@pytest.mark.slow
def test_the_pages_commands_and_its_python_run(place, warm):
    said = ""
    for block in blocks(PAGE):
        if block.language == "sh":
            said += warm.run(block.text, place)
        elif not [name for name in TRAINER if f"from {name} import" in block.text]:
            said += warm.python(block.text, place)
    for name in ("examples", "sft", "grpo", "as-it-was", "searched"):
        assert (place / "out" / name / "README.md").is_file(), name
    assert "rows in 1 file(s)" in said
    assert "Calculate 3 + 5 - 2." in said, "the model answers"
    assert "search" in said


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
def test_the_pages_training_runs(place, number, warm):
    missing = [name for name in sorted(TRAINER) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed here (benchmarks/train.py has an environment with them)")
    code = [block.text for block in blocks(PAGE) if block.language == "python"]
    code = [text for text in code if any(f"from {name} import" in text for name in TRAINER)]
    warm.python(code[number], place)


def test_a_published_version_of_the_tiny_policy_opens_as_it_is(place):
    path = place / "data" / "weights" / "v1"
    opened, told = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    assert not any(told.values()), told
    base = AutoModelForCausalLM.from_pretrained(resolve("tiny"))
    for (name, mine), (_, theirs) in zip(opened.named_parameters(), base.named_parameters(), strict=True):
        scale = 1.001 if name == "model.norm.weight" else 1
        assert torch.equal(mine, theirs * scale), name
    tokenizer = AutoTokenizer.from_pretrained(path)
    question = [{"role": "user", "content": "Calculate 3 + 5 - 2."}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = opened.generate(**prompt, max_new_tokens=64, do_sample=False)[0]
    assert ids[-1] == tokenizer.eos_token_id
    assert "Answer:" in tokenizer.decode(ids, skip_special_tokens=True)
    assert "auto_map" not in (path / "config.json").read_text(), "it needs no code of its own"
    assert {one.suffix for one in path.iterdir()} <= {".json", ".jinja", ".safetensors"}
