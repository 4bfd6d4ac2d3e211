"""Teaches the tiny policy from nothing, in minutes on two cores, so that the factory has something to improve.

Documents are made on the fly (trainers/tiny/documents.py), packed into rows, and read once. What comes out is a
directory that transformers and vLLM open, with a card that says how it was made and what it can do. A directory that
holds the same recipe already is left alone.
"""

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from schemas.errors import Told
from trainers.tiny import architecture, card, documents, exam, probes, tokenizer
from trainers.tiny.architecture import CONTEXT, SHORT, Recipe

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

REPORT = "bootstrap.json"
IGNORED = -100
"""Label of a token that is read but not learned."""


class BadBootstrap(Told, ValueError):
    """The bootstrap cannot start; the text says what to do."""


def run(
    out: Path,
    *,
    scale: float = 1.0,
    seed: int = 0,
    threads: int = 0,
    size: str = "tiny",
    recipe: Recipe | None = None,
    force: bool = False,
    console: Console | None = None,
) -> card.Report:
    """Teaches a policy and writes it to `out`; a finished one of the same recipe is only reported.

    Args:
        out: the policy directory; its policy files are replaced when the new ones are complete.
        scale: share of the recipe's token budget.
        seed: of the documents, the first weights and the examination.
        threads: torch threads; 0 = every core, at most two (the model is too small for more).
        size: a name of architecture.SIZES.
        recipe: takes the place of `size`, `scale` and `seed`.
        force: teach again even if it is there.
        console: where progress is shown.

    Raises:
        BadBootstrap: for an unknown size, a scale that is not positive, or a directory that cannot be written.
    """
    recipe = recipe or _recipe(size, scale, seed)
    screen = console or Console(stderr=True)
    found = cached(out, recipe)
    if found and not force:
        screen.print(f"{out} holds this policy already (recipe {recipe.sha})")
        return found
    work = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        work.mkdir(parents=True, exist_ok=True)
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadBootstrap(f"{out}: cannot be written: {error.strerror}") from error
    try:
        report = _make(work, recipe, threads, screen)
        _replace(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return report


def _recipe(size: str, scale: float, seed: int) -> Recipe:
    if size not in architecture.SIZES:
        raise BadBootstrap(f"no size '{size}'; there are {', '.join(architecture.SIZES)}")
    if not 0 < scale <= 100:
        raise BadBootstrap(f"scale {scale}: give a share of the full token budget above 0, for example 0.1")
    named = architecture.SIZES[size]
    return msgspec.structs.replace(named, tokens=round(named.tokens * scale), seed=seed)


def cached(out: Path, recipe: Recipe) -> card.Report | None:
    """The report of a finished policy of this recipe in `out`, if there is one."""
    try:
        report = msgspec.json.decode((out / REPORT).read_bytes(), type=card.Report)
    except (OSError, msgspec.MsgspecError):
        return None
    complete = (out / "model.safetensors").exists() and (out / "config.json").exists()
    return report if complete and report.recipe == recipe else None


def _make(work: Path, recipe: Recipe, threads: int, screen: Console) -> card.Report:
    import torch

    threads = threads or min(2, os.cpu_count() or 1)
    torch.set_num_threads(threads)
    started, burnt = time.monotonic(), time.process_time()
    words = tokenizer.build()
    model = architecture.model(recipe, words.get_vocab_size(), *tokenizer.end_and_pad(words), tokenizer.values(words))
    loss = train(model, batches(words, recipe), recipe, screen)
    taught = time.monotonic() - started
    model = model.to(torch.bfloat16)
    model.save_pretrained(str(work))
    tokenizer.save(work, CONTEXT)
    screen.print(f"taught in {taught:.0f} s; examining")
    model.eval()
    grades = exam.examine(model.float(), words, recipe)
    report = card.Report(
        recipe=recipe,
        size=next((name for name, known in architecture.SIZES.items() if known == recipe), "custom"),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        loss=loss,
        threads=threads,
        seconds_training=taught,
        seconds=0.0,
        core_seconds=0.0,
        grades=grades,
        probes=probes.measure(model, words, recipe),
    )
    spent, burnt = time.monotonic() - started, time.process_time() - burnt
    report = msgspec.structs.replace(report, seconds=spent, core_seconds=burnt)
    (work / REPORT).write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    (work / "README.md").write_text(card.text(report), "utf-8")
    return report


def _replace(work: Path, out: Path) -> None:
    """Moves finished files over old ones, the report last: until then the directory counts as unfinished."""
    (out / REPORT).unlink(missing_ok=True)
    for file in sorted(work.iterdir(), key=lambda path: path.name == REPORT):
        file.replace(out / file.name)


def rows(
    words: "Tokenizer", seed: int, length: int, shares: Mapping[str, float] = documents.SHARES
) -> Iterator[tuple[list[int], list[int]]]:
    """Packed training rows without end: (token ids, labels), each `length` long.

    A row begins with a document and is filled with more; the last one is cut. So a question stands at the beginning,
    where it will be asked, and anywhere else, with strange lines before it.
    """
    end, _ = tokenizer.end_and_pad(words)
    ids: list[int] = []
    labels: list[int] = []
    for document in documents.stream(seed, shares):
        for span in document:
            piece = words.encode(span.text).ids
            ids += piece
            labels += piece if span.learn else [IGNORED] * len(piece)
        ids.append(end)
        labels.append(end)
        if len(ids) >= length:
            yield ids[:length], labels[:length]
            ids, labels = [], []


def batches(words: "Tokenizer", recipe: Recipe) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Batches of recipe.batch_tokens: every fourth of long rows, the others of short ones (see architecture.SHORT)."""
    sources = {
        (early, length): rows(words, 4 * recipe.seed + number, length, shares)
        for number, (early, shares, length) in enumerate(
            (early, shares, length)
            for early, shares in ((True, documents.EARLY_SHARES), (False, documents.SHARES))
            for length in (SHORT, CONTEXT)
        )
    }
    for step in count():
        length = CONTEXT if step % 4 == 3 else SHORT
        source = sources[step < recipe.early * recipe.steps, length]
        yield list(islice(source, max(1, recipe.batch_tokens // length)))


def train(
    model: "PreTrainedModel", source: Iterator[list[tuple[list[int], list[int]]]], recipe: Recipe, screen: Console
) -> float:
    """One pass of Muon and AdamW over recipe.steps batches; gives the mean loss (nats) of the last tenth."""
    import torch

    optimizers = _optimizers(model, recipe)
    schedules = [torch.optim.lr_scheduler.LambdaLR(one, _Factor(recipe)) for one in optimizers]
    tail: list[float] = []
    columns = (TextColumn("teaching"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    loss_column = TextColumn("loss {task.fields[loss]:.3f}")
    with Progress(*columns, loss_column, TimeRemainingColumn(), console=screen) as progress:
        bar = progress.add_task("teaching", total=recipe.steps, loss=0.0)
        for batch in islice(source, recipe.steps):
            loss = _loss(model, batch)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for moving in (*optimizers, *schedules):
                moving.step()
            model.zero_grad(set_to_none=True)
            tail = [*tail, float(loss.detach())][-max(1, recipe.steps // 10) :]
            progress.update(bar, advance=1, loss=tail[-1])
    return sum(tail) / len(tail)


def _loss(model: "PreTrainedModel", batch: list[tuple[list[int], list[int]]]) -> "torch.Tensor":
    """Mean cross entropy (nats) over the tokens that are to be learned."""
    import torch

    ids = torch.tensor([row[0] for row in batch])
    labels = torch.tensor([row[1] for row in batch])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits
    flat = logits[:, :-1].float().flatten(0, 1)
    return torch.nn.functional.cross_entropy(flat, labels[:, 1:].flatten(), ignore_index=IGNORED)


def _optimizers(model: "PreTrainedModel", recipe: Recipe) -> list[Any]:
    """Muon for the layers' matrices (the same loss for fewer tokens in short trials here), AdamW for the rest."""
    import torch

    matrices = [weight for name, weight in model.named_parameters() if architecture.is_matrix(name)]
    rest = [weight for name, weight in model.named_parameters() if not architecture.is_matrix(name)]
    muon = torch.optim.Muon(
        matrices, lr=recipe.lr, momentum=0.95, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, torch.optim.AdamW(rest, lr=recipe.lr_embedding, betas=(0.9, 0.98), weight_decay=0.0, fused=True)]


class _Factor:
    """Share of the learning rate by step: warm up, stay, and fall in a straight line over the second half."""

    def __init__(self, recipe: Recipe) -> None:
        self.steps = recipe.steps
        self.warmup = max(1, round(recipe.warmup * recipe.steps))

    def __call__(self, step: int) -> float:
        """The share at a step."""
        return min(1.0, (step + 1) / self.warmup, max(0.01, 2 * (1 - step / self.steps)))
