"""The life of a cluster object: start, connect, notice the end, close, in both of Dask's worlds.

Owns the tasks of one object and their order, in Dask's own loop thread or in the caller's loop. Keeps no desired
state: the control plane has it, so nothing is lost with this process. What leads to a cluster that can be dialled is
in `_starting.py`; what people call is in `_cluster.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import time
import uuid
import warnings
import weakref
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import Any, TypeVar

from distributed.client import Client
from distributed.comm.core import connect
from distributed.core import Status, rpc
from distributed.deploy.cluster import Cluster as DaskCluster
from distributed.objects import SchedulerInfo
from distributed.utils import NoOpAwaitable

from towline import _ending, _environ, _farewell
from towline._advice import Advice
from towline._api import ControlPlane
from towline._binary import Binary, locate
from towline._dashboard import Dashboard
from towline._errors import ClusterEnded, ClusterError
from towline._options import Duration, seconds
from towline._profile import load
from towline._progress import Reporter
from towline._security import ClusterSecurity
from towline._starting import Attempt, waiting_for
from towline._views import ClusterView

__all__ = ["Lifecycle"]

logger = logging.getLogger("towline")
Self = TypeVar("Self", bound="Lifecycle")
T = TypeVar("T")

#: How long closing waits for the hosts' end. Past it the control plane goes on alone.
_END_SECONDS = 15.0
#: A client that has just awaited its cluster is looked for after these seconds.
_LOOKS_FOR_CLIENTS = (0.0, 0.01, 0.05, 0.2, 1.0)
#: How often the scheduler hears that this object is there; more often where idleness ends the cluster within seconds.
_TELL_PERIOD = 5.0
#: Of which a control plane that does not answer may take this much.
_TELL_SECONDS = 8.0


def _loss_of(view: ClusterView) -> ClusterEnded:
    failure = view.failure()
    return ClusterEnded(failure.code, failure.message, failure.remedy)


class Lifecycle(DaskCluster):
    """A cluster object's life. `Cluster` adds what people call."""

    def _set_up(
        self,
        way: Callable[[Attempt], Awaitable[ClusterSecurity]],
        *,
        name: str | None,
        joined: bool,
        environ: Mapping[str, str],
        workers: int,
        timeout: Duration,
        shutdown_on_close: bool,
        profile: str | None,
        reporter: Reporter,
        asynchronous: bool,
        loop: Any,
        quiet: bool,
    ) -> None:
        self._timeout = float(seconds("timeout", timeout))
        chosen = load(profile)
        binary = Binary(locate(), profile)
        self.shutdown_on_close = shutdown_on_close
        self.security: ClusterSecurity | None = None
        self._way = way
        self._joined = joined
        self._environ = environ
        self._first_workers = workers
        self._reporter = reporter
        self._attempt = Attempt(ControlPlane(chosen), binary, reporter)
        self._binary = binary
        self._dashboard = Dashboard(binary, self._log)
        self._starting: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._guarding: asyncio.Task[None] | None = None
        self._observing: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._preparing: set[asyncio.Task[None]] = set()
        self._endings: weakref.WeakSet[_ending.Ending] = weakref.WeakSet()
        super().__init__(asynchronous=asynchronous, loop=loop, quiet=quiet, name=name)
        _farewell.expect(self)
        if asynchronous:
            return
        self._loop_runner.start()
        try:
            self.sync(self._ensure_started)
        except BaseException:
            # Ctrl-C included: whatever was begun is undone before the error goes on.
            self.close()
            raise

    # -- start -------------------------------------------------------------------------------------------------------

    def __await__(self: Self) -> Generator[Any, Any, Self]:
        async def started() -> Self:
            await self._ensure_started()
            preparing = asyncio.ensure_future(self._prepare_clients())
            self._preparing.add(preparing)
            preparing.add_done_callback(self._preparing.discard)
            return self

        return started().__await__()

    async def _prepare_clients(self) -> None:
        """Make clients of this cluster ready for its end: each awaits its cluster while it starts, in its own loop.

        Dask lists a client only after its start, so we look again a little later.
        """
        for pause in _LOOKS_FOR_CLIENTS:
            await asyncio.sleep(pause)
            self._attach_clients()

    def _attach_clients(self) -> None:
        for client in list(Client._instances):
            if client.cluster is self and client.status in ("newly-created", "connecting", "running"):
                self._endings.add(_ending.attach(client, self._ended_within))

    async def __aenter__(self: Self) -> Self:
        await self._ensure_started()
        return self

    async def _ensure_started(self) -> None:
        if self.status in (Status.closing, Status.closed):
            raise ClusterError("cluster_closed", f"the cluster {self.name} was closed", "Make a new one.")
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._begin())
        try:
            await asyncio.shield(self._starting)
        except BaseException:
            # A start that failed, or that nobody waits for any more, leaves nothing behind.
            await asyncio.shield(self._ensure_closed(_END_SECONDS))
            raise

    async def _begin(self) -> None:
        self.status = Status.starting
        try:
            self.security = await self._within(self._way(self._attempt), self._timeout)
            view = self._view
            assert view is not None
            assert self._attempt.watch is not None
            self._attempt.watch.listeners.append(Advice().saw)
            self.name = view.name
            await self._connect(view)
            if self._environ:
                sending = _environ.send(self.scheduler_comm, self._environ, self._attempt.nanny)
                await self._within(sending, self._timeout)
            self._guarding = asyncio.ensure_future(self._guard())
            self._telling = asyncio.ensure_future(self._tell())
            if self._first_workers:
                message = f"waiting for {self._first_workers} of {view.n_workers} workers"
                with self._reporter.step("workers", message) as step:
                    await self._wait_for_workers(self._first_workers, self._timeout)
                    step.done(f"{len(self.scheduler_info['workers'])} of {view.n_workers} workers are there")
        finally:
            self._reporter.rest()

    async def _within(self, awaitable: Awaitable[T], limit: float) -> T:
        """The start's own limit; its message says what was waited for when it passed."""
        try:
            return await asyncio.wait_for(awaitable, limit)
        except (asyncio.TimeoutError, TimeoutError):
            raise ClusterError(
                "start_timeout",
                f"the cluster was not ready in {limit:.0f} s; it waits for "
                f"{self._attempt.asking or waiting_for(self._view, self._reporter.doing)}",
                "`towline cluster show` says more; `timeout=` sets the limit.",
            ) from None

    async def _connect(self, view: ClusterView) -> None:
        assert self.security is not None
        arguments = self.security.get_connection_args("client")
        trouble: BaseException | None = None
        with self._reporter.step("connect", "connecting to the scheduler"):
            for address in view.addresses:
                try:
                    # The handshake checks the role already, where the sockets are Python's own; here it is asked
                    # whatever they are, and before a word is said.
                    comm = await connect(address, **arguments)
                    self.security.check(comm.extra_info.get("peercert"), None)
                    await comm.close()
                    self.scheduler_comm = rpc(address, connection_args=arguments)
                    await (self._observe(self.scheduler_comm) if self._joined else super()._start())
                    return
                except (OSError, asyncio.TimeoutError) as error:
                    trouble = error
            if self.security.refusal is not None:
                raise self.security.refusal
            raise ClusterError(
                "scheduler_unreachable",
                f"the scheduler does not answer at {', '.join(view.addresses)}: {trouble}",
                "Check the network between here and there; `towline cluster show` says where its log lies.",
            ) from trouble

    async def _observe(self, scheduler: Any) -> None:
        """Follow the workers by asking, as a second object of one cluster.

        A Dask scheduler tells of workers to one subscriber only: the newest. That place is the creator's.
        """
        self.scheduler_info = SchedulerInfo(await scheduler.identity())
        self._cluster_info.update(await scheduler.get_metadata(keys=["cluster-manager-info"], default={}))
        self._observing = asyncio.ensure_future(self._ask_for_workers(scheduler))
        self.status = Status.running

    async def _ask_for_workers(self, scheduler: Any) -> None:
        while True:
            # A thousand workers are a megabyte: the more there are, the more seldom.
            await asyncio.sleep(1.0 + len(self.scheduler_info["workers"]) / 100)
            with contextlib.suppress(OSError):
                self.scheduler_info = SchedulerInfo(await scheduler.identity())

    async def _tell(self) -> None:
        """Tell the scheduler that somebody is here, and how much this process works: it may be building a graph."""
        assert self.scheduler_comm is not None
        name, before, at = uuid.uuid4().hex, time.process_time(), time.monotonic()
        while True:
            used, now = time.process_time(), time.monotonic()
            milli = int(1000 * (used - before) / (now - at)) if now > at else 0
            # One whose start took long was not listed yet when it asked for us.
            self._attach_clients()
            before, at = used, now
            # A scheduler that is away for a moment is asked again; one that is gone is `_guard`'s matter.
            with contextlib.suppress(OSError):
                await self.scheduler_comm.towline_client(client=name, cpu_milli=milli)
            await asyncio.sleep(min(_TELL_PERIOD, max(0.5, (self._attempt.idle_after or 3600) / 5)))

    async def _guard(self) -> None:
        """Notice a cluster that ends without having been asked to by this object, and say why."""
        loss = await self._loss()
        if self.status == Status.running:
            self._log(f"the cluster has ended: {loss}")
            self.status = Status.failed
            for ending in list(self._endings):
                if ending.client.loop is not None:
                    ending.client.loop.add_callback(ending.ended, loss)

    async def _ended_within(self, limit: float) -> ClusterEnded | None:
        """Why the cluster has ended, if that shows within so many seconds. In any loop."""
        until = time.monotonic() + limit
        while self.status not in (Status.closing, Status.closed):
            view = self._view
            if view is not None and view.state not in ("starting", "running"):
                return _loss_of(view)
            if time.monotonic() >= until:
                break
            await asyncio.sleep(0.05)
        return None

    @property
    def _view(self) -> ClusterView | None:
        return self._attempt.watch.view if self._attempt.watch is not None else None

    @property
    def cluster_id(self) -> str | None:
        """The cluster's id, once it has one."""
        return self._view.id if self._view is not None else None

    def _update_worker_status(self, op: str, msg: Any) -> None:
        # Waiting for workers takes a fresh picture, in which a worker may be gone already: Dask's own `del` would then
        # raise, and the picture would never change again.
        if op == "remove" and msg not in self.scheduler_info["workers"]:
            return
        super()._update_worker_status(op, msg)

    async def _wait_for_workers(self, n_workers: int = 0, timeout: float | None = None) -> None:
        """Wait for workers, but not for those of a cluster that has failed."""
        limit = self._timeout if timeout is None else timeout
        arriving = asyncio.ensure_future(super()._wait_for_workers(n_workers, limit))
        lost = asyncio.ensure_future(self._loss())
        try:
            await asyncio.wait((arriving, lost), return_when=asyncio.FIRST_COMPLETED)
            if arriving.done():
                await arriving
                return
            raise lost.result()
        finally:
            for task in (arriving, lost):
                task.cancel()
            await asyncio.gather(arriving, lost, return_exceptions=True)

    async def _loss(self) -> ClusterEnded:
        """Why the cluster is no more, as soon as it is no more."""
        watch = self._attempt.watch
        assert watch is not None
        try:
            view = await watch.until(lambda view: view.state not in ("starting", "running"))
        except Exception:
            # The stream is lost, which says nothing about the cluster.
            await asyncio.get_running_loop().create_future()
            raise
        return _loss_of(view)

    def _log(self, log: str) -> None:
        self._cluster_manager_logs.append((datetime.datetime.now(), log))  # Dask's form
        self._reporter.emit("note", message=log)

    # -- end ---------------------------------------------------------------------------------------------------------

    def close(self, timeout: float | None = None) -> Any:
        """Close the object, and end the cluster when `shutdown_on_close` is set. Closing twice is fine.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait for the hosts' end. Past it the control plane goes on alone.
        """
        if self.status == Status.closed:
            return NoOpAwaitable() if self.asynchronous else None
        limit = _END_SECONDS if timeout is None else float(timeout)
        try:
            waiting = self.sync(self._ensure_closed, limit)
        except RuntimeError:
            # The loop is gone, as at the interpreter's end: `_farewell` tells the control plane.
            return None
        if not self.asynchronous:
            self._loop_runner.stop()
        return waiting

    async def _close(self) -> None:
        await self._ensure_closed(_END_SECONDS)

    async def _ensure_closed(self, limit: float) -> None:
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._end(limit))
        await asyncio.shield(self._closing)

    async def _end(self, limit: float) -> None:
        if self.status == Status.closed:
            return
        self.status = Status.closing
        until = time.monotonic() + limit
        for task in (self._starting, self._guarding, self._observing, self._telling, *self._preparing):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        ended = False
        await self._dashboard.close_soon()
        try:
            if self.shutdown_on_close:
                ended = await self._shut_down(until)
        finally:
            self._reporter.rest()
            # Dask would stop adaptive scaling here. Ours is the cluster's, which may outlive this object.
            self._adaptive = None
            await super()._close()
            self.status = Status.closed
            if self._attempt.watch is not None:
                await self._attempt.watch.close()
            self._attempt.forget(ended)
            self._attempt.plane.close()
            _farewell.done(self)

    async def _shut_down(self, until: float) -> bool:
        """Ask for the cluster's end and wait for it; whether it has ended. Does not raise: `max_lifetime` is there."""
        name = await self._attempt.find_id()
        if name is None:
            return False
        view, plane = self._view, self._attempt.plane
        if view is not None and view.is_terminal:
            return True
        try:
            with self._reporter.step("stop", "ending the hosts") as step:
                asked = await plane.delete(name, max(1.0, min(_TELL_SECONDS, until - time.monotonic())))
                if self._attempt.watch is None:
                    return asked.is_terminal
                waiting = self._attempt.watch.until(lambda view: view.is_terminal)
                try:
                    view = await asyncio.wait_for(waiting, max(0.1, until - time.monotonic()))
                except (asyncio.TimeoutError, TimeoutError):
                    step.done("asked for; the control plane goes on with it")
                    return False
                step.done(f"{len(view.hosts)} hosts ended")
                return True
        except ClusterError as error:
            warnings.warn(
                f"the cluster {self.name} could not be told to end: {error} It may go on until its max_lifetime; "
                f"`towline cluster stop {name}` ends it earlier.",
                ResourceWarning,
                stacklevel=2,
            )
            logger.warning("the cluster %s could not be told to end: %s", self.name, error)
            return False
