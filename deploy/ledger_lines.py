"""What a ledger consists of: one line for each account, with the ids of what is missing from it."""

import msgspec


class StageLine(msgspec.Struct, frozen=True, kw_only=True):
    """One account; taken = out + filtered + dead + in_flight + lost."""

    stage: str
    input: str
    output: str
    taken: int
    out: int
    filtered: int = 0
    dead: int = 0
    in_flight: int = 0
    lost: int = 0
    missing: list[str] = []
    """The ids that are lost."""


class NamedLine(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that other rows name, and those of them that are nowhere."""

    by: str
    """The tables that name them."""
    of: str
    """The table that should hold them."""
    named: int
    missing: list[str]


class Amount(msgspec.Struct, frozen=True, kw_only=True):
    """Rollouts and their response tokens."""

    rollouts: int = 0
    tokens: int = 0


class RlLine(msgspec.Struct, frozen=True, kw_only=True):
    """What became of every rollout; generated = trained + stale + filtered + failed + in_flight when it closes."""

    source: str = ""
    """'' in the sum of all."""
    difficulty: float = 0.0
    generated: Amount = Amount()
    trained: Amount = Amount()
    """In the groups of a step (under rl.mask_overlong those that were cut off are among them and bear no loss)."""
    stale: Amount = Amount()
    filtered: Amount = Amount()
    failed: Amount = Amount()
    in_flight: Amount = Amount()
    lost: Amount = Amount()
    why: dict[str, int] = {}
    """Rollouts stale or filtered, by reason."""


PARTS = ("generated", "trained", "stale", "filtered", "failed", "in_flight", "lost")


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """All accounts."""

    stages: list[StageLine]
    sinks: list[StageLine]
    """The sink is a stage too: from each topic, and from `trees` to `nodes`, into the tables."""
    named: list[NamedLine]
    rl: RlLine
    rl_by: list[RlLine]
    """The same by source and difficulty (rounded to a tenth)."""
    closes: bool
    online: bool
    """Whether a broker answered; otherwise it was computed from the tables and the offsets saved last."""

    def missing(self) -> dict[str, list[str]]:
        """What is lost, as 'stage from -> to' or 'table, which others name', and its ids."""
        lines = [*self.stages, *self.sinks]
        found = {f"{line.stage} {line.input} -> {line.output}": line.missing for line in lines if line.missing}
        return found | {f"{line.of} (named in {line.by})": line.missing for line in self.named if line.missing}
