"""What an export makes of the rows: as they are, without bookkeeping, or the columns that TRL's trainers ask for.

TRL takes conversations, to which it applies the policy's chat template. So the prompt is what the policy is asked here:
its system turn and worked examples included, if it has them (processors/chat.py). SFTTrainer reads `prompt` and
`completion`; GRPOTrainer reads `prompt` and hands the other columns to the reward function by their names.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

import pyarrow as pa

from deploy.export_files import Format, NotExported
from processors.chat import Chat, resolve
from schemas.settings import Settings

TURNS = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))
KEPT = ("answer", "grader", "metadata", "source", "difficulty")
"""Of a problem, beside its question."""


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
        kinds |= {name: pa.string() for name in self.kept}
        self.has_id = "id" in names
        if self.has_id:
            kinds["id"] = pa.string()
        if "difficulty" in kinds:
            kinds["difficulty"] = pa.float64()
        self.schema = pa.schema(list(kinds.items()))

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A conversation a row."""
        return pa.RecordBatch.from_pylist([self._row(row) for row in batch.to_pylist()], schema=self.schema)

    def _row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        problem = row["problem"] if self.nested else row
        made = {"prompt": self.chat.messages(problem["question"]), **{name: problem[name] for name in self.kept}}
        if self.completes:
            made["completion"] = [{"role": "assistant", "content": row["text"]}]
        if self.has_id:
            made["id"] = row["id"]
        return made


def _fields(kind: pa.DataType) -> set[str]:
    return {kind.field(at).name for at in range(kind.num_fields)} if pa.types.is_struct(kind) else set()
