"""The shell around every stage: a Faust app whose handler turns one message into others, and the process that hosts it.

Faust acks what a handler raised on or was cancelled in, and loses messages with concurrency > 1 (upstream issue #606).
So: one actor a partition, every failure becomes a dead letter, outputs are acknowledged by the broker before the input
is acked, and a message in hand when the process stops is either finished or left uncommitted.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import faust
import msgspec
from aiokafka.errors import KafkaError
from mode.threads import WorkerThread

from processors import kafka
from processors.access import faust_credentials
from processors.failures import Patience, Share, TooManyLetters, is_transient
from processors.grading_pool import GraderBroken
from processors.large import NotReadable, fitting, packed, unpacked
from processors.policy import EngineDied, NothingToServe, UnknownWeights
from processors.pressure import Gate
from processors.status import Status
from schemas.access import host_port
from schemas.codec import BadMessage, content_sha, decode, encode
from schemas.killpoints import passed
from schemas.messages import DeadLetter, Message, content_id
from schemas.settings import Settings
from schemas.topics import BY_MESSAGE, Topic, message_key

WATCH_S = 1.0
SILENCE_S = 20.0
"""A broker that refuses connections for this long ends the worker: the supervisor starts it again."""
BAD_INPUT = 2
"""The exit code that tells a supervisor not to start the process again."""
FATAL = (
    EngineDied, GraderBroken, kafka.BrokerMissing, KafkaError, MemoryError, NothingToServe, NotReadable, UnknownWeights,
)  # fmt: skip
"""Errors that say nothing about the message: the worker ends and the message is delivered again (those of them that are
transient are tried again in place before)."""
FOR_A_PERSON = (NothingToServe, TooManyLetters)
"""Errors that a restart would only meet again."""

M = TypeVar("M", bound=Message)


class Source(msgspec.Struct, frozen=True):
    """Where a message was read, and the sha256 of its bytes."""

    topic: str
    partition: int
    offset: int
    sha: str


Handler = Callable[[Any, Source], Awaitable[Sequence[Message]]]


class WorkerFailed(RuntimeError):
    """The process cannot go on; messages in hand stay uncommitted."""


def stage_app(stage: str, settings: Settings) -> faust.App:
    """A Faust app whose id, and so its consumer group, is the stage's name, wherever it runs."""
    broker = settings.broker
    datadir = Path(settings.factory.data) / "state" / "faust"
    datadir.parent.mkdir(parents=True, exist_ok=True)
    return faust.App(
        stage,
        broker=";".join(f"aiokafka://{address}" for address in kafka.bootstrap(settings).split(",")),
        broker_credentials=faust_credentials(settings),
        key_serializer="raw",
        value_serializer="raw",
        store="memory://",
        datadir=datadir,
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=kafka.FETCH_BYTES,
        producer_max_request_size=broker.message_max_bytes,
        producer_compression_type=None if broker.compression == "none" else broker.compression,
        # A join waits for the longest message in hand of the others: an earlier timeout would begin it again and again.
        broker_request_timeout=broker.rebalance_timeout_ms / 1000 + 10,
        broker_session_timeout=broker.session_timeout_ms / 1000,
        broker_heartbeat_interval=broker.session_timeout_ms / 3000,
        broker_max_poll_interval=broker.rebalance_timeout_ms / 1000,
        broker_rebalance_timeout=broker.rebalance_timeout_ms / 1000,
        broker_commit_interval=1.0,
        stream_buffer_maxsize=8,  # messages a partition, beside one fetch: the bound on what waits in this process
        stream_wait_empty=True,
        worker_redirect_stdouts=False,
    )


def attach(
    app: faust.App, topic: Topic, handler: Handler, status: Status, settings: Settings, limit: int | None = None
) -> None:
    """Let the app consume a topic, one message at a time a partition.

    Args:
        app: from stage_app.
        topic: whose messages the handler gets, decoded.
        handler: gives the outputs; whatever it raises becomes a dead letter (FATAL errors end the worker instead).
        status: counts records, errors and messages in hand.
        settings: size limits.
        limit: messages in hand at most, over all partitions; None = a message a partition.
    """
    work = Work(app, topic, handler, status, settings, limit)
    hosted(app).append(work)
    source = app.topic(topic.name, key_serializer="raw", value_serializer="raw", key_type=bytes, value_type=bytes)
    app.agent(source, name=f"{app.conf.id}.{topic.table}", isolated_partitions=True)(work.consume)


def hosted(app: faust.App) -> "list[Work]":
    """The works attached to an app."""
    works: list[Work] = app.__dict__.setdefault("factory_works", [])
    return works


class Work:
    """One topic's messages on their way through a handler."""

    def __init__(
        self, app: faust.App, topic: Topic, handler: Handler, status: Status, settings: Settings, limit: int | None
    ) -> None:
        self.app, self.topic, self.handler, self.status = app, topic, handler, status
        self.settings = settings
        self.in_hand = 0
        self.stopping = False
        self.failed: BaseException | None = None
        self._share = Share(f"{app.conf.id} (from {topic.name})", settings.failures)
        self._too_many: TooManyLetters | None = None
        self.gate = Gate(app.conf.id, settings, status)
        self._room = asyncio.Semaphore(limit) if limit else None

    async def consume(self, stream: Any) -> None:  # noqa: ANN401 - a faust stream
        """The agent: one of these runs for each partition."""
        async for event in stream.events():
            try:
                if self._room:
                    async with self._room:
                        await self._one(event)
                else:
                    await self._one(event)
            except BaseException:
                # Faust acks an event that ends in an exception or a cancellation; one that counts as acked already
                # never reaches the list of offsets to commit, so the message is delivered again.
                event.message.acked = True
                raise

    async def _one(self, event: Any) -> None:  # noqa: ANN401 - a faust event
        await self.gate.passed()
        if self.stopping or self.failed:
            await asyncio.Event().wait()  # until the app stops: uncommitted
        self.in_hand += 1
        try:
            with self.status.in_flight:
                outputs = await self._outputs(event.message)
                passed(f"{self.app.conf.id}:working")
                for output in outputs:
                    await self._send(output)
                passed(f"{self.app.conf.id}:output")
                self.status.add(records=1)
            self.failed = self.failed or self._too_many
        except asyncio.CancelledError as error:
            # The worker is stopping, or the partition went away; else it is a future of the handler's own that was
            # cancelled, and going on to the next message would commit past this one.
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                self.failed = WorkerFailed(f"{self.topic.name}: what the handler waited for was cancelled: {error!r}")
            raise
        except Exception as error:
            self.failed = error  # FATAL, or an output that the broker did not take
            raise
        finally:
            self.in_hand -= 1

    async def _outputs(self, record: Any) -> Sequence[Message]:  # noqa: ANN401 - a faust message
        """The handler's outputs, or the dead letter that says why there are none."""
        patience, attempt = Patience(self.settings.failures.retry_s), 1
        source = Source(record.topic, record.partition, record.offset, content_sha(record.value or b""))
        while True:
            try:
                value = unpacked(self.settings, record.value)
                source = msgspec.structs.replace(source, sha=content_sha(value))
                outputs = await self.handler(decode(value, self.topic.message), source)
                for output in outputs:
                    encode(output)  # what cannot be written (half a surrogate pair) is this message's fault, too
            except Exception as error:  # the process edge: what failed is a row that says so
                if await self._again(error, patience):
                    attempt += 1
                    continue
                if isinstance(error, FATAL):
                    raise
                self.status.add(errors=1)
                letter = self._letter(record, source, error, attempt)
                self._too_many = self._share.count(letter.error)
                return [letter]
            self._share.count()
            return outputs

    async def _again(self, error: Exception, patience: Patience) -> bool:
        """Wait before another attempt; False where none would help, or no time is left for one."""
        pause = patience.pause() if is_transient(error) and not self.stopping else None
        if pause is None:
            return False
        self.status.add(retries=1)
        self.status.set(retrying=f"{type(error).__name__}: {error}"[:200])
        await asyncio.sleep(pause)
        return True

    def _letter(self, record: Any, source: Source, error: Exception, attempt: int) -> DeadLetter:  # noqa: ANN401 - a faust message
        letter = DeadLetter(
            id=content_id(self.app.conf.id, source.topic, source.partition, source.offset, source.sha),
            stage=self.app.conf.id,
            topic=source.topic,
            partition=source.partition,
            offset=source.offset,
            input_id=_id_of(record.value or b"")[:1000],
            key=record.key or b"",
            value=record.value or b"",
            error=str(error)[:1000] or type(error).__name__,
            detail="" if isinstance(error, BadMessage) else "".join(traceback.format_exception(error))[-4000:],
            attempt=attempt,
            time=time.time(),
        )
        return fitting(self.settings, letter)

    async def _send(self, message: Message) -> None:
        patience = Patience(self.settings.failures.retry_s)
        while True:
            try:
                value = packed(self.settings, message)
                topic = BY_MESSAGE[type(message)].name
                await self.app.producer.send_and_wait(topic, message_key(message), value, None, None, None)
            except (KafkaError, OSError) as error:
                if not await self._again(error, patience):
                    raise
            else:
                self.gate.sent()
                return


class _Identified(msgspec.Struct):
    id: str = ""


def _id_of(value: bytes) -> str:
    """The id in a message that may be broken otherwise; '' where none can be read."""
    try:
        return msgspec.json.decode(value, type=_Identified).id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


def run(apps: Sequence[faust.App], settings: Settings, also: Sequence[Coroutine[Any, Any, None]] = ()) -> None:
    """Host apps (and other coroutines) in this process until SIGTERM or SIGINT.

    Stops gracefully: nothing new is begun, what is in hand finishes or stays uncommitted, offsets are committed.

    An app, a handler (FATAL) or a coroutine that failed, or a broker that went away, ends the process at once with
    exit code 1 (FOR_A_PERSON: 2) and the error as its last line: Faust's threads would wait for the broker for
    ever, and what was in hand is uncommitted, so there is nothing to tidy up.

    Raises:
        BrokerMissing: no broker answered at the start.
    """
    kafka.create_topics(settings)
    logging.getLogger("faust").setLevel(logging.ERROR)
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    loop = asyncio.get_event_loop()  # the one that the apps were built for
    try:
        loop.run_until_complete(Host(apps, settings).run(also))
    except WorkerFailed as error:
        told = error.__cause__ if isinstance(error.__cause__, FOR_A_PERSON) else None
        print(f"factory: {told or error}", file=sys.stderr, flush=True)
        os._exit(BAD_INPUT if told else 1)


def leave() -> None:
    """End the process, exit code 0, where an app could not be stopped; to be called when all else is closed.

    Its thread waits for a broker that is gone, for ever, and the interpreter would wait for the thread.
    """
    if any(isinstance(thread, WorkerThread) for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


class Host:
    """Several apps on one event loop."""

    def __init__(self, apps: Sequence[faust.App], settings: Settings) -> None:
        self.apps = apps
        self.settings = settings
        self.works = [work for app in apps for work in hosted(app)]
        self._stop = asyncio.Event()
        self._heard = time.monotonic()

    async def run(self, also: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Start, watch, stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        tasks = [asyncio.ensure_future(coroutine) for coroutine in (self._start(), *self._gates(), *also)]
        try:
            while not self._stop.is_set():
                self._check(tasks)
                await self._listen()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), WATCH_S)
        except WorkerFailed:
            raise
        except BaseException as error:
            raise WorkerFailed(f"{type(error).__name__}: {error}") from error
        await self._end(tasks)

    def _gates(self) -> list[Coroutine[Any, Any, None]]:
        return [work.gate.watch() for work in self.works]

    async def _start(self) -> None:
        for app in self.apps:
            await app.start()

    def _check(self, tasks: Sequence["asyncio.Future[None]"]) -> None:
        failures = [work.failed for work in self.works if work.failed]
        failures += [app.crash_reason for app in self.apps if app.crashed and app.crash_reason]
        failures += [error for task in tasks if task.done() and (error := task.exception())]
        if failures:
            raise WorkerFailed(f"{type(failures[0]).__name__}: {failures[0]}") from failures[0]

    async def _listen(self) -> None:
        """Notice a broker that is gone: Faust itself would wait for it for ever."""
        for address in kafka.bootstrap(self.settings).split(","):
            host, port = host_port(address)
            try:
                _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), WATCH_S)
            except OSError:  # a timeout is one, too
                continue
            writer.close()
            self._heard = time.monotonic()
            return
        if time.monotonic() - self._heard > SILENCE_S:
            raise WorkerFailed(f"the broker at {kafka.bootstrap(self.settings)} has not answered for {SILENCE_S:g} s")

    async def _end(self, tasks: Sequence["asyncio.Future[None]"]) -> None:
        for work in self.works:
            work.stopping = True
        for task in tasks:
            task.cancel()
        deadline = time.monotonic() + self.settings.factory.grace_s
        while any(work.in_hand and not work.failed for work in self.works) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await asyncio.gather(*tasks, return_exceptions=True)
        for app in self.apps:
            app.conf.stream_wait_empty = False  # we waited; what is still in hand must stay uncommitted
            try:
                await asyncio.wait_for(app.stop(), timeout=15)
            except TimeoutError:
                continue  # its offsets are committed every second; what was in hand is delivered again
