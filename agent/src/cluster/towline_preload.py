"""Towline's part inside Dask's own processes: the role gate, the sign of having joined, and the end with the runner.

Dask checks that a peer's certificate is of the cluster's authority, but not *what* the peer may be. This file adds it:

- in the scheduler, only a certificate of the role ``worker`` may register as worker or nanny;
- in workers and nannies, only a certificate of the role ``scheduler`` is accepted at the scheduler's address.

The agent writes this file next to its settings (named by ``TOWLINE_PRELOAD``) and Dask loads it with ``--preload``.
It is loaded twice in one process by Dask's own importer, so everything here can be done twice. Dask goes on when a
preload fails; this one ends the process instead, as a cluster without its gate must not run.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import json
import logging
import multiprocessing
import os
import re
import signal
from time import CLOCK_BOOTTIME, clock_gettime, time
from typing import Any

from distributed import Nanny, Scheduler, Worker
from distributed.comm import connect
from distributed.comm.core import FatalCommClosedError
from distributed.comm.tcp import TLSConnector
from distributed.core import Status

logger = logging.getLogger("distributed.towline")

EX_CONFIG = 78
PR_SET_PDEATHSIG = 1
# Every role appears once in a certificate's one URI name.
MEMBER = re.compile(r"(?P<cluster>spiffe://[^/]+/workspace/[^/]+/cluster/[^/]+)/host/[^/]+/role/(?P<role>[a-z]+)")


def read_settings() -> dict[str, Any]:
    with open(os.environ["TOWLINE_PRELOAD"], encoding="utf-8") as file:
        return json.load(file)


SETTINGS = read_settings()


def give_up(reason: str) -> None:
    """End this process at once: nothing after this line may run without the gate."""
    logger.critical("Towline ends this process: %s", reason)
    logging.shutdown()
    os._exit(EX_CONFIG)


def end_with_parent() -> None:
    """Ask the kernel to kill this process when the one that started it dies, so that nothing outlives the runner."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        give_up("the kernel refused to tie this process to its parent")
    # A nanny's worker has the nanny as its parent; all others have the runner, which may have died before this line.
    if multiprocessing.parent_process() is None and os.getppid() != SETTINGS["runner"]:
        os._exit(EX_CONFIG)


def role_of(comm: Any) -> str | None:
    """What the peer's certificate entitles it to be; None without exactly one name of this cluster's form."""
    certificate = comm.extra_info.get("peercert") or {}
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    match = MEMBER.fullmatch(names[0]) if len(names) == 1 else None
    if match is None or not match["cluster"].startswith(SETTINGS["trust_prefix"]):
        return None
    return match["role"] if match["cluster"].endswith(SETTINGS["cluster_suffix"]) else None


def check_scheduler_role() -> None:
    """Refuse, in this process, every peer at the scheduler's address that is not the scheduler."""
    original = TLSConnector.connect
    if getattr(original, "towline", False):
        return
    addresses = {address.removeprefix("tls://") for address in SETTINGS["scheduler"]}

    async def checked(self: Any, address: str, *args: Any, **kwargs: Any) -> Any:
        comm = await original(self, address, *args, **kwargs)
        if address in addresses and role_of(comm) != "scheduler":
            comm.abort()
            raise FatalCommClosedError(f"the peer at {address} has no scheduler's certificate")
        return comm

    checked.towline = True  # type: ignore[attr-defined]
    TLSConnector.connect = checked


end_with_parent()
check_scheduler_role()


def gate(scheduler: Scheduler, op: str) -> None:
    """Put the role check before one of the scheduler's operations."""
    original = scheduler.handlers[op]
    if getattr(original, "towline", False):
        return

    async def gated(comm: Any, **message: Any) -> Any:
        if (role := role_of(comm)) != "worker":
            logger.warning("Refused %s from %s: its certificate's role is %s", op, comm.peer_address, role)
            refusal = "this certificate may not register here: its role is not worker"
            await comm.write({"status": "error", "message": refusal, "time": time()})
            await comm.close()
            return Status.dont_reply
        return await original(comm, **message)

    gated.towline = True  # type: ignore[attr-defined]
    scheduler.handlers[op] = gated


def demand_encryption(server: Any) -> None:
    """A configuration of somebody else must not have switched TLS off."""
    if not server.security.require_encryption:
        give_up("encryption is not required by Dask's configuration")
    if not all(listener.listen_address.startswith("tls://") for listener in server.listeners):
        give_up("Dask listens without TLS")


def pages_start(scheduler: Scheduler) -> None:
    """Dask's pages for whom the agent lets in."""
    if (pages := part("towline_dashboard").start(scheduler, folder())) is not None:
        PAGES.append(pages)


def joined_file() -> str:
    return os.path.join(SETTINGS["joined"], str(os.getpid()))


async def tell_when_joined(server: Any) -> None:
    """Leave a file once the scheduler serves or the worker is registered: awaiting a server waits for its start."""
    await server
    temporary = joined_file() + ".new"
    with open(temporary, "w", encoding="utf-8"):
        pass
    os.rename(temporary, joined_file())


async def wait_for_scheduler(server: Any) -> None:
    """Wait until the scheduler answers: a worker may start long before it, and Dask's nanny gives up after 30 s."""
    waited = False
    while True:
        try:
            comm = await connect(SETTINGS["scheduler"][0], timeout=1, **server.connection_args)
            break
        except FatalCommClosedError as error:
            give_up(f"what listens at the scheduler's address is not this cluster's scheduler: {error}")
        except OSError:
            if not waited:
                logger.info("Waiting for the scheduler at %s", SETTINGS["scheduler"][0])
            waited = True
        await asyncio.sleep(0.05)
    await comm.close()


def folder() -> str:
    """Where the launch's files are."""
    return os.path.dirname(os.environ["TOWLINE_PRELOAD"])


def part(name: str) -> Any:
    """A file beside this one, by its path: the launch wrote them all."""
    path = os.path.join(folder(), f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


#: A word of the host's agent that is older says nothing of now.
WORD_SECONDS = 60.0


def host_word(_: Any = None) -> dict[str, str] | None:
    """What this host's agent says of GPUs, traffic and people, for the heartbeat to the scheduler.

    Of an agent that is silent for long, what was busy is not known any more; what was quiet stays so.
    """
    try:
        with open(os.path.join(os.path.dirname(SETTINGS["agent"]), "run", "word.json"), encoding="utf-8") as file:
            told = json.load(file)
        word = {str(kind): str(signal) for kind, signal in told["word"].items()}
        if clock_gettime(CLOCK_BOOTTIME) - told["at"] > WORD_SECONDS:
            word = {kind: signal if signal == "quiet" else "unclear" for kind, signal in word.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # An agent that has not measured yet, or is older.
        return None
    return word


TASKS: set[asyncio.Task[None]] = set()
#: The scheduler's dashboard, while there is one.
PAGES: list[Any] = []


async def dask_setup(server: Any) -> None:
    """Dask calls this after the server listens and before it answers anybody."""
    try:
        demand_encryption(server)
        if isinstance(server, Scheduler):
            gate(server, "register-worker")
            gate(server, "register_nanny")
            part("towline_scheduler").start(server, role_of, SETTINGS["agent"], part("towline_scaling"))
            pages_start(server)
        elif isinstance(server, Nanny) or (isinstance(server, Worker) and server.nanny is None):
            await wait_for_scheduler(server)
        if isinstance(server, Worker):
            server.metrics["towline"] = host_word
        if not isinstance(server, Nanny):
            task = asyncio.create_task(tell_when_joined(server))
            TASKS.add(task)
            task.add_done_callback(TASKS.discard)
    except Exception as error:
        give_up(f"its preload failed: {error!r}")


async def dask_teardown(server: Any) -> None:
    """A server that closes has left the cluster."""
    while PAGES:
        PAGES.pop().stop()
    if not isinstance(server, Nanny):
        try:
            os.unlink(joined_file())
        except FileNotFoundError:
            pass
