"""The versions of the policy, as announced: every process that needs weights follows the `weights` topic to its end.

Without a consumer group and from the beginning, so that a worker that starts late knows every version, and none
depends on another's offsets.
"""

import threading
import time
from collections.abc import Collection
from pathlib import Path

from processors import kafka
from processors.announced import weights_sha
from processors.chat import BadPolicy, resolve
from schemas.codec import BadMessage, decode
from schemas.errors import first_line
from schemas.killpoints import passed
from schemas.messages import Weights
from schemas.settings import Settings

TOPIC = "weights"
POLL_MS = 250
RETRY_S = 2.0


class Versions:
    """The announced versions of settings.policy.name, followed by a daemon thread.

    Raises:
        BrokerMissing: when no broker answers at the start.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._rows: dict[int, Weights] = {}
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._read_to_end()
        self._thread = threading.Thread(target=self._follow, name="versions", daemon=True)
        self._thread.start()

    def _read_to_end(self) -> None:
        for record in kafka.tail(self.settings, TOPIC, {}):
            self._take(record.value)

    def _take(self, value: bytes | None) -> None:
        try:
            row = decode(value or b"", Weights)
        except BadMessage:
            return  # the sink writes the dead letter
        if row.policy != self.settings.policy.name:
            return
        with self._changed:
            self._rows.setdefault(row.version, row)  # the first copy of a version is the one that counts
            self._changed.notify_all()

    def _follow(self) -> None:
        while not self._closing.is_set():
            try:
                self._listen()
            except Exception:  # noqa: BLE001 - a thread's edge; the process that hosts us notices a broker that is gone
                self._closing.wait(RETRY_S)

    def _listen(self) -> None:
        consumer = kafka.consumer(self.settings, [TOPIC])
        try:
            consumer.seek_to_beginning()
            while not self._closing.is_set():
                for records in consumer.poll(POLL_MS).values():
                    for record in records:
                        self._take(record.value)
        finally:
            consumer.close()

    def all(self) -> list[Weights]:
        """Every version, oldest first."""
        with self._changed:
            return [self._rows[version] for version in sorted(self._rows)]

    def latest(self, trainers: Collection[str] | None = None, refused: Collection[str] = ()) -> Weights | None:
        """The newest version, or the newest of these trainers ('base', 'sft', 'rl'); None where there is none.

        Versions with a sha among `refused` are passed over.
        """
        rows = (row for row in reversed(self.all()) if row.sha256 not in refused)
        return next((row for row in rows if trainers is None or row.trainer in trainers), None)

    def base(self) -> Weights | None:
        """Version 0."""
        with self._changed:
            return self._rows.get(0)

    def by_sha(self, sha: str) -> Weights | None:
        """The version with these weights."""
        return next((row for row in self.all() if row.sha256 == sha), None)

    def wait(self, version: int, timeout: float) -> Weights | None:
        """The newest version once it is at least `version`; None after `timeout` seconds."""
        with self._changed:
            there = self._changed.wait_for(lambda: any(v >= version for v in self._rows), timeout)
        return self.latest() if there else None

    def close(self) -> None:
        """Stop following."""
        self._closing.set()
        self._thread.join(5)


def local(path: str) -> str:
    """The directory of a resolved policy; one that a hub names is downloaded first (and found again afterwards).

    Raises:
        BadPolicy: it is neither a directory nor to be had from the hub.
    """
    if Path(path).is_dir():
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return str(snapshot_download(path))
    except (HFValidationError, OSError) as error:  # the hub's other errors, and a missing network, are OSErrors
        found = f"no such directory, and no such policy on the hub: {first_line(error)}"
        raise BadPolicy(f"{path}: {found}; check the name, or give a model's directory") from error


def ensure_base(settings: Settings, versions: Versions) -> Weights:
    """Version 0: the policy as it was given, announced by whichever process comes first.

    Two that come at the same moment announce the same version with the same sha: one row.

    Raises:
        BadPolicy: policy.path is not a policy, or has no weights.
        TimeoutError: the announcement did not come back.
    """
    if base := versions.base():
        return base
    path = local(resolve(settings.policy.path))
    try:
        sha = weights_sha(path)
    except FileNotFoundError as error:
        raise BadPolicy(f"{error}; give a directory with its weights as safetensors") from error
    row = Weights(
        policy=settings.policy.name, version=0, parent=-1, path=path, sha256=sha, trainer="base", time=time.time()
    )
    producer = kafka.producer(settings)
    kafka.send(producer, row).get(timeout=30)
    passed("base:announcement")
    producer.close()
    versions.wait(0, timeout=30)
    if base := versions.base():
        return base
    raise TimeoutError("version 0 was announced and did not come back: is the topic `weights` readable?")
