"""One model held by several processes (FSDP2): rank 0 thinks, the others do as they are told, in the same order.

Rank 0 alone talks to Kafka, the tables and the journal. Everything that all ranks must do together is an order
(learner.py), which rank 0 broadcasts as MessagePack; nothing is pickled. Orders and sums go over gloo, between CPUs:
a rank may wait for hours for the next rows, and must neither time out nor keep a GPU busy meanwhile.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Self

import torch

from schemas.errors import Told

MEETING = "RANKS_MEETING_FILE"
"""The variable that names a file in which ranks of one machine find each other; without it, torchrun's address."""
FOR_EVER = timedelta(days=365)
_LOCAL: Mapping[str, str] = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}


class WorldDoesNotFit(Told, ValueError):
    """There are more ranks than there is work or are devices for; the text says how many would do."""


class Ranks:
    """This process among those that train together; without arguments, the only one.

    Args:
        rank: its number, 0 leads.
        world: how many there are.
        device: where its part of the model lies.
    """

    def __init__(self, rank: int = 0, world: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.world, self.device = rank, world, device
        self._orders: Any = None
        self._sums: Any = None

    def connected(self) -> Self:
        """Make the groups that talk; every rank must call it."""
        import torch.distributed as dist

        self._orders = dist.new_group(backend="gloo", timeout=FOR_EVER)
        self._sums = dist.new_group(backend="gloo")
        return self

    @property
    def leads(self) -> bool:
        """Whether there are others, and they wait for what this rank tells."""
        return self.world > 1 and self.rank == 0

    def tell(self, order: bytes) -> None:
        """The one that leads: hand an order to all others."""
        import torch.distributed as dist

        dist.broadcast(torch.tensor([len(order)]), 0, group=self._orders)
        dist.broadcast(torch.frombuffer(bytearray(order), dtype=torch.uint8), 0, group=self._orders)

    def hear(self) -> bytes:
        """The others: wait for the next order.

        Raises:
            RuntimeError: rank 0 is gone.
        """
        import torch.distributed as dist

        size = torch.zeros(1, dtype=torch.int64)
        dist.broadcast(size, 0, group=self._orders)
        order = torch.zeros(int(size), dtype=torch.uint8)
        dist.broadcast(order, 0, group=self._orders)
        return order.numpy().tobytes()

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """The sum over all ranks of each value; every rank must ask, with the same names in the same order."""
        if self.world == 1:
            return dict(values)
        import torch.distributed as dist

        total = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(total, group=self._sums)
        return dict(zip(values, total.tolist(), strict=True))

    def meet(self) -> None:
        """Wait until every rank is here."""
        self.sum({"here": 1.0})

    def shard(self, model: Any, blocks: Sequence[torch.nn.Module]) -> None:  # noqa: ANN401 - transformers has no types
        """Cut the parameters of each block, then those that are left, into a share a rank (FSDP2)."""
        if self.world == 1:
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        assert self.device is not None
        mesh = init_device_mesh(self.device.type, (self.world,))
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)


ALONE = Ranks()
"""A process that has no others beside it."""


@contextmanager
def joined() -> Iterator[Ranks]:
    """This process among its ranks, by torchrun's variables RANK, WORLD_SIZE and LOCAL_RANK; without them, alone.

    Raises:
        WorldDoesNotFit: this machine has fewer GPUs than ranks.
    """
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if world == 1:
        yield Ranks()
        return
    import torch.distributed as dist

    here = {name: int(os.environ.get(name, default)) for name, default in _LOCAL.items()}
    device = _device(here["LOCAL_RANK"], here["LOCAL_WORLD_SIZE"])
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    meeting = os.environ.get(MEETING, "")
    where = f"file://{meeting}" if meeting else "env://"
    dist.init_process_group(backend, init_method=where, rank=rank, world_size=world)
    try:
        yield Ranks(rank, world, device).connected()
    finally:
        dist.destroy_process_group()


def _device(local: int, count: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    gpus = torch.cuda.device_count()
    if count > gpus:
        raise WorldDoesNotFit(f"{count} ranks on this machine need a GPU each, and it has {gpus}: start {gpus} on it")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
