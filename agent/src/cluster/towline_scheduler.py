"""Towline's part inside the scheduler: what it does, told to the agent; who its clients are; an end that loses no task.

The agent decides when a cluster is idle, and only the scheduler knows what a cluster does. So this file sends numbers
(never a key, a name or an argument) over the agent's local socket, once a second while they change, and carries out one
request of the agent: `close`, in two phases. Comparing a counter and closing would lose every task that lies in a
socket. So the clients are asked to hold first; each answers behind everything it sent before; then the counters are
compared again, and only then the cluster is closed. A client that does not answer in time is no reason to stay.

How many worker hosts there are is `towline_scaling.py`'s. Loaded by `towline_preload.py`, in the scheduler only.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import os
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from time import monotonic
from typing import Any

from distributed import Scheduler
from distributed.core import Status

logger = logging.getLogger("distributed.towline")

Role = Callable[[Any], "str | None"]

#: The topic on which clients hear of the end.
TOPIC = "towline"
#: Clients get this long to answer that they hold.
HOLD_SECONDS = 2.0
#: What a client says of its own work counts this long.
CLIENT_WORD_SECONDS = 15.0
#: Without news the agent still hears this often that we live.
PULSE_SECONDS = 5.0
TICK_SECONDS = 1.0
#: Longest line that the agent may send.
LINE_LIMIT = 64 * 1024
#: What a person's request does that no task shows. Each counts as work while it runs and as news once it has.
REQUESTS = (
    "benchmark_hardware", "broadcast", "cancel", "gather", "proxy", "rebalance", "register_nanny_plugin",
    "register_scheduler_plugin", "register_worker_plugin", "replicate", "restart", "restart_workers", "retire_workers",
    "run_function", "scatter", "update_data",
)  # fmt: skip
#: Requests that may wait for others as long as they like: news when they come, and no work while they wait.
SIGNALS = (
    "event_set", "event_wait", "lock_acquire", "lock_release", "publish_get", "publish_put", "queue_get", "queue_put",
    "semaphore_acquire", "semaphore_release", "variable_get", "variable_set",
)  # fmt: skip


class Activity:
    """The scheduler's activity as numbers, and its closing."""

    def __init__(self, scheduler: Scheduler, role_of: Role) -> None:
        self.scheduler = scheduler
        self.role_of = role_of
        #: Graphs and requests that came, and how many of them are being worked on.
        self.came = 0
        self.pending = 0
        #: Connections of people: each client's stream, and each cluster object's. Dead ones are dropped when counted.
        self.people: dict[str, Any] = {}
        self.had_client = False
        self.alone_since = monotonic()
        #: Each client's newest word on its own work: thousandths of a core, and when it came.
        self.client_words: dict[str, tuple[int, float]] = {}
        #: Who was asked to hold and has not answered, by the question's token.
        self.waiting: dict[str, set[str]] = {}
        self.held = asyncio.Event()
        self.closed: str | None = None
        #: Every worker host that ever came.
        self.hosts: set[str] = set()
        self.closing = asyncio.Lock()

    # -- what happens ------------------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Put this before the scheduler's own handlers."""
        handlers, streams = self.scheduler.handlers, self.scheduler.stream_handlers
        handlers["register-client"] = self._register_client(handlers["register-client"])
        for op in REQUESTS:
            if op in handlers:
                handlers[op] = self._counted(handlers[op])
        for op in SIGNALS:
            if op in handlers:
                handlers[op] = self._noticed(handlers[op])
        handlers["towline_client"] = self._hear_client
        streams["update-graph"] = self._graphs(streams["update-graph"])
        streams["towline-holding"] = self._holding

    def _register_client(self, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def registered(comm: Any, client: str, **message: Any) -> Any:
            # A task may be a client too (`worker_client`): its work shows as a task, and it is nobody to wait for.
            if self.role_of(comm) == "client":
                self._arrived(client, comm)
            try:
                return await original(comm, client=client, **message)
            finally:
                self._left(client, comm)

        return registered

    def _arrived(self, name: str, comm: Any) -> None:
        self.people[name] = comm
        self.had_client = True

    def _left(self, name: str, comm: Any) -> None:
        if self.people.get(name) is comm:
            del self.people[name]
            self.alone_since = monotonic()
            for waiting in self.waiting.values():
                waiting.discard(name)
            self.held.set()

    async def _hear_client(self, comm: Any, client: str, cpu_milli: int = 0, **_: Any) -> dict[str, Any]:
        """A cluster object says that it is there, and how much its process works."""
        if self.role_of(comm) == "client":
            self._arrived(f"object-{client}", comm)
            self.client_words[client] = (int(cpu_milli), monotonic())
        return {"closed": self.closed}

    def _counted(self, original: Callable[..., Any]) -> Callable[..., Any]:
        async def counted(comm: Any, **message: Any) -> Any:
            self.came += 1
            self.pending += 1
            try:
                result = call(original, comm, message)
                return await result if isinstance(result, Awaitable) else result
            finally:
                self.pending -= 1

        return counted

    def _noticed(self, original: Callable[..., Any]) -> Callable[..., Any]:
        async def noticed(comm: Any, **message: Any) -> Any:
            self.came += 1
            result = call(original, comm, message)
            return await result if isinstance(result, Awaitable) else result

        return noticed

    def _graphs(self, original: Callable[..., Any]) -> Callable[..., Any]:
        async def counted(client: str, **message: Any) -> Any:
            if self.closed is not None:
                # Only a client that does not hold comes here: to it this is Dask's own cancellation.
                keys = list(message.get("keys") or ())
                self.scheduler.report({"op": "cancelled-keys", "keys": keys}, client=client)
                return None
            self.came += 1
            self.pending += 1
            try:
                result = original(client=client, **message)
                return await result if isinstance(result, Awaitable) else result
            finally:
                self.pending -= 1

        return counted

    # -- what is told ------------------------------------------------------------------------------------------------

    def moves(self) -> int:
        """Rises whenever something happened that somebody may be waiting for."""
        return int(self.scheduler.transition_counter) + self.came

    def tasks(self) -> int:
        """Tasks that workers have, that wait for one, or that are about to be made of a graph."""
        state = self.scheduler
        # Without any worker nothing waits for its turn.
        waiting = len(state.queued) if state.workers else 0
        return sum(len(worker.processing) for worker in state.workers.values()) + waiting + self.pending

    def unrunnable(self) -> int:
        """Tasks that no worker could run."""
        state = self.scheduler
        return len(state.unrunnable) + (0 if state.workers else len(state.queued))

    def _busiest_client(self) -> int | None:
        now = monotonic()
        self.client_words = {
            client: word for client, word in self.client_words.items() if now - word[1] <= CLIENT_WORD_SECONDS
        }
        return max((milli for milli, _ in self.client_words.values()), default=None)

    def _alone_for(self) -> float | None:
        """Seconds without anybody; None while somebody is there."""
        for name, comm in list(self.people.items()):
            if comm.closed():
                self._left(name, comm)
        return None if self.people else monotonic() - self.alone_since

    def statement(self) -> dict[str, Any]:
        """Everything that the agent is told."""
        alone = self._alone_for()
        self.hosts.update(host_of(worker.name) for worker in self.scheduler.workers.values())
        busiest = max((worker.metrics.get("cpu", 0) for worker in self.scheduler.workers.values()), default=0)
        return {
            "op": "activity",
            "moves": self.moves(),
            "tasks": self.tasks(),
            "unrunnable": self.unrunnable(),
            "clients": len(self.people),
            "had_client": self.had_client,
            "no_client_for": None if alone is None else int(alone),
            "client_cpu_milli": self._busiest_client(),
            # Dask gives percent of one core.
            "workers_cpu_milli": max(0, int(busiest * 10)),
            "hosts": len(self.hosts),
            "workers": busiest_word(worker.metrics.get("towline") for worker in self.scheduler.workers.values()),
            "closed": self.closed,
        }

    # -- the end -----------------------------------------------------------------------------------------------------

    async def close(self, moves: int, reason: str) -> bool:
        """Close for good, unless something moved since `moves`. True: no task can come any more."""
        async with self.closing:
            if self.closed is not None:
                return True
            if self.moves() != moves or self.tasks():
                return False
            token = f"{moves}-{monotonic()}"
            await self._hold(token)
            if self.moves() != moves or self.tasks():
                self.scheduler.log_event(TOPIC, {"state": "open", "token": token})
                return False
            self.closed = reason
            self.scheduler.log_event(TOPIC, {"state": "closed", "reason": reason})
            logger.info("Towline closes this cluster: %s", reason)
            return True

    def warn(self, remaining: int) -> None:
        """Tell people that idleness is about to end this cluster: in its log, and to each client."""
        self.scheduler.log_event(TOPIC, {"state": "warning", "reason": "idle", "remaining": remaining})
        logger.warning(
            "Nobody has used this cluster for a while. It ends in %s unless somebody does; "
            "`towline cluster hold` or `cluster.hold(...)` keeps it.",
            span(remaining),
        )

    async def _hold(self, token: str) -> None:
        """Ask every client to hold, and wait until each has said so behind all that it had sent."""
        waiting = self.waiting[token] = {name for name in self.people if name in self.scheduler.clients}
        self.scheduler.log_event(TOPIC, {"state": "closing", "token": token})
        until = monotonic() + HOLD_SECONDS
        try:
            while waiting and (left := until - monotonic()) > 0:
                self.held.clear()
                with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
                    await asyncio.wait_for(self.held.wait(), left)
        finally:
            del self.waiting[token]

    def _holding(self, client: str, token: str, **_: Any) -> None:
        if token in self.waiting:
            self.waiting[token].discard(client)
            self.held.set()


def span(seconds: int) -> str:
    """A time in words."""
    return f"{seconds} s" if seconds < 120 else f"{round(seconds / 60)} min"


#: What hosts say of themselves, the strongest first.
SIGNALS_IN_ORDER = ("busy", "unclear", "quiet")
KINDS = ("gpu", "traffic", "person")


def busiest_word(words: Iterable[Any]) -> dict[str, str]:
    """Of each kind the strongest that the host of any worker says. A worker without a word says nothing."""
    said: dict[str, set[str]] = {kind: {"quiet"} for kind in KINDS}
    for word in words:
        for kind in KINDS:
            signal = word.get(kind) if isinstance(word, dict) else None
            said[kind].add(signal if signal in SIGNALS_IN_ORDER else "quiet")
    return {kind: min(said[kind], key=SIGNALS_IN_ORDER.index) for kind in KINDS}


def host_of(worker: Any) -> str:
    """The host of a worker: workers are named after it, with a number behind it where a host has several."""
    return re.sub(r"^([a-z]+-[a-z0-9]+)-\d+$", r"\1", str(worker))


def call(handler: Callable[..., Any], comm: Any, message: dict[str, Any]) -> Any:
    """Call one of Dask's handlers as Dask does: with the connection where its first parameter is called so."""
    if next(iter(inspect.signature(handler).parameters), None) == "comm":
        return handler(comm, **message)
    return handler(**message)


# -- the agent's socket ----------------------------------------------------------------------------------------------


async def dial(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a socket whose path may be longer than a socket address can be."""
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
    try:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            peer.setblocking(False)
            await asyncio.get_running_loop().sock_connect(peer, f"/proc/self/fd/{folder}/{os.path.basename(path)}")
            return await asyncio.open_unix_connection(sock=peer, limit=LINE_LIMIT)
        except BaseException:
            peer.close()
            raise
    finally:
        os.close(folder)


async def tell(activity: Activity, scaling: Any, path: str) -> None:
    """Keep the agent told for as long as the scheduler runs; an agent that restarts is found again."""
    while activity.scheduler.status not in (Status.closing, Status.closed, Status.failed):
        try:
            reader, writer = await dial(path)
        except OSError:
            await asyncio.sleep(TICK_SECONDS)
            continue
        try:
            await converse(activity, scaling, reader, writer)
        except OSError as error:
            logger.info("The agent's socket was lost: %s", error)
        except Exception:
            # A scheduler that said nothing any more would be taken for dead.
            logger.exception("Towline could not speak with its agent; it tries again")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await asyncio.sleep(TICK_SECONDS / 4)


async def converse(
    activity: Activity, scaling: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Tell and listen on one connection until it ends."""

    async def say(message: dict[str, Any]) -> None:
        writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        await writer.drain()

    async def speak() -> None:
        last: dict[str, Any] = {}
        scaled: dict[str, Any] | None = None
        said = 0.0
        while True:
            statement = activity.statement()
            if statement != last or monotonic() - said >= PULSE_SECONDS:
                await say(statement)
                last, said = statement, monotonic()
            if (word := scaling.statement()) != scaled and word is not None:
                await say(word)
                scaled = word
            await asyncio.sleep(TICK_SECONDS)

    async def listen() -> None:
        while line := await reader.readline():
            request = json.loads(line)
            if request.get("op") == "close":
                done = await activity.close(int(request["moves"]), str(request["reason"]))
                await say({"op": "closed" if done else "kept"})
            elif request.get("op") == "warn":
                activity.warn(int(request["remaining"]))
            elif request.get("op") == "scaling":
                scaling.follow(request["plan"])

    tasks = [asyncio.ensure_future(speak()), asyncio.ensure_future(listen())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


TASKS: set[asyncio.Task[None]] = set()


def start(scheduler: Scheduler, role_of: Role, path: str, scaling: Any) -> Activity:
    """Attach to a scheduler and keep the agent told. `scaling` is `towline_scaling`, the module."""
    activity = Activity(scheduler, role_of)
    activity.attach()
    number = scaling.Scaling(scheduler, host_of)
    scheduler.handlers["towline_prefer"] = number.prefer
    scheduler.handlers["towline_retire"] = number.retire_chosen
    for work in (tell(activity, number, path), number.run()):
        task = asyncio.ensure_future(work)
        TASKS.add(task)
        task.add_done_callback(TASKS.discard)
    return activity
