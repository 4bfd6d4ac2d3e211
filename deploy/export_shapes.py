"""What an export makes of the rows: as they are, without bookkeeping, or the columns that TRL's trainers ask for.

TRL takes conversations, to which it applies the policy's chat template. So the prompt is what the policy is asked here:
its system turn and worked examples included, if it has them (processors/chat.py). SFTTrainer reads `prompt` and
`completion`; GRPOTrainer reads `prompt` and hands the other columns to the reward function by their names.
"""

from collections import Counter
from typing import Any, Protocol

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from deploy.export_files import Format, NotExported
from deploy.tabular import plain
from processors.chat import Chat, resolve
from schemas.settings import Settings

TURNS = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))
KEPT = ("answer", "grader", "metadata", "source", "difficulty")
"""Of a problem, beside its question."""
NEEDED = ("question", "answer", "text")
"""What a trainer cannot do without."""


class Shape(Protocol):
    """Rows of the query into rows of the export."""

    @property
    def schema(self) -> pa.Schema:
        """Of the rows it makes."""

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows, in their order."""


def shape(form: Format, schema: pa.Schema, settings: Settings) -> Shape:
    """What makes a format's rows of a query's.

    Raises:
        NotExported: they do not fit.
        BadPolicy: trl: the policy's chat format cannot be read.
    """
    twice = sorted(name for name, count in Counter(schema.names).items() if count > 1)
    if twice:
        raise NotExported(f"the query has two columns {twice[0]!r}: give each a name of its own (AS)")
    if form == "trl":
        return Turns(schema, Chat(resolve(settings.policy.path), settings.policy))
    return Columns(schema, bookkeeping=form != "hf")


class Columns:
    """The rows as they are, with or without the columns that say where a row was read from (_topic, _offset, ...)."""

    def __init__(self, schema: pa.Schema, *, bookkeeping: bool) -> None:
        self.names = [name for name in schema.names if bookkeeping or not name.startswith("_")]
        if not self.names:
            raise NotExported("hf leaves out columns that begin with '_', and the query has no others: use parquet")
        self.schema = pa.schema([schema.field(name) for name in self.names])

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The columns that stay."""
        return batch.select(self.names)


class Turns:
    """Conversations: of examples (problem, text) for SFTTrainer; of problems, or rows with one, for GRPOTrainer.

    Raises:
        NotExported: the rows are neither.
    """

    def __init__(self, schema: pa.Schema, chat: Chat) -> None:
        names = set(schema.names)
        self.chat = chat
        self.nested = "problem" in names
        inner = _fields(schema.field("problem").type) if self.nested else names
        self.completes = "text" in names and "question" in inner
        if not {"question", "answer"} <= inner:
            raise NotExported(
                "for trl the rows need `problem` and `text` (examples, for SFTTrainer), or `question` and `answer`, or "
                f"a `problem` with both (problems, prompts, for GRPOTrainer); the query gives {', '.join(schema.names)}"
            )
        self.kept = [name for name in KEPT if name in inner]
        kinds: dict[str, pa.DataType] = {"prompt": TURNS}
        if self.completes:
            kinds["completion"] = TURNS
        kinds |= {name: pa.float64() if name == "difficulty" else pa.string() for name in self.kept}
        self.has_id = "id" in names
        if self.has_id:
            kinds["id"] = pa.string()
        self.schema = pa.schema(list(kinds.items()))

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A conversation a row.

        Raises:
            NotExported: a question, answer or text is NULL, or a value is none of its column's type.
        """
        questions = self._column(batch, "question").to_pylist()
        made = {"prompt": pa.array([self.chat.messages(str(question)) for question in questions], TURNS)}
        if self.completes:
            texts = _typed("text", batch.column("text"), pa.string()).to_pylist()
            made["completion"] = pa.array([[{"role": "assistant", "content": text}] for text in texts], TURNS)
        made |= {name: self._column(batch, name) for name in self.kept}
        if self.has_id:
            made["id"] = _typed("id", batch.column("id"), pa.string())
        return pa.RecordBatch.from_arrays([made[name] for name in self.schema.names], schema=self.schema)

    def _column(self, batch: pa.RecordBatch, name: str) -> "pa.Array[Any]":
        values = pc.struct_field(batch.column("problem"), name) if self.nested else batch.column(name)
        return _typed(name, values, pa.float64() if name == "difficulty" else pa.string())


def _typed(name: str, values: "pa.Array[Any]", kind: pa.DataType) -> "pa.Array[Any]":
    """The values as the type that the trainers get; metadata that is no text as JSON."""
    if name in NEEDED and values.null_count:
        raise NotExported(f"for trl every row needs its {name!r}, and some have NULL: leave them out (WHERE)")
    if name == "metadata" and pa.types.is_nested(values.type):
        return pa.array([None if one is None else _json(one) for one in values.to_pylist()], kind)
    try:
        return values.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        wants = f"for trl {name!r} is to be a {kind}"
        raise NotExported(f"{wants}, and not every {values.type} can become one: CAST it in the query") from None


def _json(value: object) -> str:
    return msgspec.json.encode(plain(value)).decode()


def _fields(kind: pa.DataType) -> set[str]:
    return {kind.field(at).name for at in range(kind.num_fields)} if pa.types.is_struct(kind) else set()
