"""`towline.Cluster`: the object that Dask knows as a cluster.

Owns what people call: arguments, logs, clients. The object's size is in `_scaling.py`, its life in `_lifecycle.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Iterable
from typing import Any

from distributed.client import Client
from distributed.core import Status

from towline import _logs
from towline._environ import parse_environ
from towline._errors import ClusterError
from towline._guard import refuse_second_import
from towline._options import Duration, Options, name_or_id, refuse_unknown, seconds, wanted_workers
from towline._progress import choose
from towline._scaling import Scalable

__all__ = ["Cluster"]


class Cluster(Scalable):
    """A Dask cluster with the packages that this interpreter has.

    It ends when this object is closed, at the latest when the interpreter ends; when nobody used it for `idle_timeout`;
    when nobody was connected for `no_client_timeout`, as after this process was killed; and after `max_lifetime`.

    Parameters
    ----------
    n_workers : int, default 4
        How many worker hosts.
    name : str, optional
        Unique in the workspace while the cluster lives; by default one is made.
    backend : str, default "local"
        Where hosts come from. `local` is this very machine.
    worker_processes : int, default 1
        Dask worker processes on each host.
    worker_threads : int, optional
        Threads of each process. By default this machine's cores shared out over all workers.
    worker_memory : int or str, optional
        Memory limit of each process, in bytes or as text (``"4 GiB"``); by default the host's memory shared out
        (with `backend="local"` this machine's, over all workers).
    worker_nanny : bool, default True
        Keep Dask's nanny, which restarts a worker that died. Without it `Client.restart` does not work.
    worker_resources : dict, optional
        Dask's abstract resources of each worker, for example ``{"GPU": 1}``.
    environ : dict of str to str, optional
        Environment variables of the workers, set before they run a task. They go from here to the scheduler over TLS
        and to every worker, later ones included; the control plane never has them.
    idle_timeout : number, str, timedelta or None, default "20 minutes"
        End the cluster after this long without work; None: never. A task that runs, waits or is being submitted is
        work, and so are worker processes and clients that use CPU.
    no_client_timeout : number, str, timedelta or None, default "auto"
        End the cluster this long after its last client and cluster object have gone, once no task runs; None: never.
        "auto" is 2 minutes, and never with ``shutdown_on_close=False``. Before the first client it is 10 minutes.
    max_lifetime : number, str or timedelta, default "24 hours"
        End the cluster after this long, whatever it does; at most 7 days.
    tags : dict of str to str, optional
        Labels for usage reports (`towline usage --by tag:NAME`), at most 20, for example ``{"project": "weather"}``.
    wait_for_workers : bool, int or float, default 0.3
        How many workers to wait for: all, none, a number, or a share of `n_workers`.
    timeout : number, str or timedelta, default "20 minutes"
        Limit for the whole start and for each later wait for workers.
    shutdown_on_close : bool, default True
        End the cluster when this object is closed or the interpreter ends.
    profile : str, optional
        Which profile of `profiles.toml`; by default `TOWLINE_PROFILE`, else the file's default.
    progress : {"auto", "rich", "plain", "json", "none"}, bool or callable, default "auto"
        How a start shows itself, on the standard error stream; a function gets each event.
    asynchronous : bool, default False
        For use in a running event loop: ``cluster = await Cluster(asynchronous=True)``.
    loop : IOLoop, optional
        A running loop to use.
    quiet : bool, default False
        Show nothing.

    Raises
    ------
    ClusterError
        With a code, what happened, and what to do.
    TypeError
        For an argument that does not exist, naming the nearest.

    Examples
    --------
    >>> cluster = towline.Cluster(n_workers=4)  # doctest: +SKIP
    >>> client = cluster.get_client()  # doctest: +SKIP
    """

    # The class as people import it.
    __module__ = "towline"

    def __init__(
        self,
        n_workers: int = 4,
        *,
        name: str | None = None,
        backend: str = "local",
        worker_processes: int = 1,
        worker_threads: int | None = None,
        worker_memory: int | str | None = None,
        worker_nanny: bool = True,
        worker_resources: dict[str, int] | None = None,
        environ: dict[str, str] | None = None,
        idle_timeout: Duration | None = "20 minutes",
        no_client_timeout: Duration | None = "auto",
        max_lifetime: Duration = "24 hours",
        tags: dict[str, str] | None = None,
        wait_for_workers: bool | int | float = 0.3,
        timeout: Duration = "20 minutes",
        shutdown_on_close: bool = True,
        profile: str | None = None,
        progress: object = "auto",
        asynchronous: bool = False,
        loop: Any = None,
        quiet: bool = False,
        **unknown: Any,
    ) -> None:
        _refuse_unknown(Cluster.__init__, unknown)
        refuse_second_import()
        options = Options.parse(
            n_workers=n_workers,
            name=name,
            backend=backend,
            worker_processes=worker_processes,
            worker_threads=worker_threads,
            worker_memory=worker_memory,
            worker_nanny=worker_nanny,
            worker_resources=worker_resources,
            idle_timeout=idle_timeout,
            no_client_timeout=no_client_timeout,
            shutdown_on_close=shutdown_on_close,
            max_lifetime=max_lifetime,
            tags=tags,
        )
        self._set_up(
            lambda attempt: attempt.create(options),
            name=name,
            joined=False,
            environ=parse_environ(environ),
            workers=wanted_workers(wait_for_workers, n_workers),
            timeout=timeout,
            shutdown_on_close=shutdown_on_close,
            profile=profile,
            reporter=choose(progress, quiet),
            asynchronous=asynchronous,
            loop=loop,
            quiet=quiet,
        )

    @classmethod
    def from_name(
        cls,
        name: str,
        *,
        wait_for_workers: int = 0,
        timeout: Duration = "20 minutes",
        shutdown_on_close: bool = False,
        profile: str | None = None,
        progress: object = "auto",
        asynchronous: bool = False,
        loop: Any = None,
        quiet: bool = False,
        **unknown: Any,
    ) -> Cluster:
        """Join a cluster that exists, by name or id.

        Where the cluster's owner key is not on this machine, its owner is asked: a code is shown, which the owner
        gives to ``towline cluster admit NAME CODE``, and this waits for it until `timeout`. That is needed once: the
        key stays on this machine until the cluster has ended. The parameters are those of `Cluster`; closing the
        object leaves the cluster alone unless `shutdown_on_close` says otherwise.

        Returns
        -------
        Cluster
            Connected; with `asynchronous` to be awaited.
        """
        _refuse_unknown(cls.from_name, unknown)
        refuse_second_import()
        name = name_or_id(name)
        cluster = cls.__new__(cls)
        cluster._set_up(
            lambda attempt: attempt.join(name),
            name=name,
            joined=True,
            environ={},
            workers=wait_for_workers,
            timeout=timeout,
            shutdown_on_close=shutdown_on_close,
            profile=profile,
            reporter=choose(progress, quiet),
            asynchronous=asynchronous,
            loop=loop,
            quiet=quiet,
        )
        return cluster

    def admit(self, code: str) -> Any:
        """Let in the client that asks to join with the key of this code; the owner key must be on this machine.

        Parameters
        ----------
        code : str
            What is shown to the person who asks. Have it told by that person: it names their key, and no other fits.

        Returns
        -------
        str
            The client's name. In asynchronous use something that can be awaited.
        """
        return self._now(self._admit, str(code))

    async def _admit(self, code: str) -> str:
        return await self._attempt.admit(self._running().id, code)

    # -- what there is -----------------------------------------------------------------------------------------------

    @property
    def details(self) -> dict[str, Any]:
        """The control plane's newest word on the cluster: state, hosts with their phases, where logs are. A copy."""
        return dict(self._view.raw) if self._view is not None else {}

    @property
    def dashboard_link(self) -> str:
        """The address of Dask's dashboard, for a browser on this machine; empty when it cannot be had.

        The first access starts a proxy (`towline cluster dashboard`), which ends with this object. Whoever has the
        link can see the cluster's tasks and logs. Dask's setting ``distributed.dashboard.link`` gives its form.
        """
        if self.status != Status.running or self.cluster_id is None:
            return ""
        # Dask's widget asks twice a second in the loop: it must not be held up, but for a moment at first.
        return self._dashboard.link(self.cluster_id, 1.0 if self._in_own_loop() else 10.0, self._in_own_loop())

    def _in_own_loop(self) -> bool:
        try:
            return asyncio.get_running_loop() is getattr(self.loop, "asyncio_loop", None)
        except RuntimeError:
            return False

    def why(self) -> Any:
        """Why the cluster is alive and what would end it first, or why it has ended: sentences, one a line.

        The control plane is asked anew each time. In asynchronous use the result is to be awaited.
        """
        self._refuse_closed()
        return self.sync(self._why)

    def _refuse_closed(self) -> None:
        if self.status == Status.closed:
            raise ClusterError(
                "cluster_closed",
                f"this object of the cluster {self.name} is closed",
                f"`towline cluster show {self.cluster_id or self.name}` says why it ended.",
            )

    async def _why(self) -> str:
        if self.cluster_id is None:
            raise ClusterError("cluster_not_running", f"the cluster {self.name} was not asked for yet", "Start it.")
        return "\n".join(await self._attempt.plane.why(self.cluster_id))

    def hold(self, time: Duration, *, reason: str | None = None) -> Any:
        """Keep the cluster alive for a time, whether or not somebody uses it.

        It then ends neither for idleness nor for want of a client; `max_lifetime`, `close` and ``towline cluster stop``
        end it all the same. A later call takes the place of the one before.

        Parameters
        ----------
        time : number, str or timedelta
            For how long from now, ``"2 hours"`` or seconds. Not beyond the cluster's `max_lifetime`.
        reason : str, optional
            For others to read in ``towline cluster show``.

        Returns
        -------
        None
            In asynchronous use something that can be awaited.
        """
        self._refuse_closed()
        return self._now(self._hold, {"seconds": seconds("time", time), "reason": reason})

    async def _hold(self, body: dict[str, Any]) -> None:
        await self._attempt.plane.hold(self._running().id, body)

    def release(self) -> Any:
        """Let go of the cluster before the time of `hold` is over. In asynchronous use to be awaited."""
        self._refuse_closed()
        return self._now(self._release, None)

    async def _release(self, _: None) -> None:
        await self._attempt.plane.release(self._running().id)

    # -- work --------------------------------------------------------------------------------------------------------

    def get_client(self) -> Client:
        """A client of this cluster; the current one when it is of this cluster already.

        In asynchronous use the client is to be awaited, or entered with ``async with``.
        """
        with contextlib.suppress(ValueError):
            current = Client.current()
            if current.cluster is self:
                return current
        client = Client(self, asynchronous=self.asynchronous)
        if not self.asynchronous and client.loop is not None:
            client.loop.add_callback(self._attach_clients)
        return client

    async def _get_logs(
        self, cluster: bool = True, scheduler: bool = True, workers: bool | Iterable[str] = True
    ) -> Any:
        """Dask's keys, from the logs of the hosts: they have more than the scheduler's memory, also after the end."""
        lines = [line for _, line in self._cluster_manager_logs]
        names = {info["name"]: address for address, info in self.scheduler_info["workers"].items()}
        view, wanted = self._view, _logs.Wanted(lines, names, cluster, scheduler, workers)
        if view is not None:
            found = await asyncio.get_running_loop().run_in_executor(None, _logs.read, view, wanted)
            if found is not None:
                return found
        gone = self.scheduler_comm is None or self.status in (Status.closing, Status.closed, Status.failed)
        if view is not None:
            try:
                return await _logs.ask(self._binary, view, wanted)
            except ClusterError:
                # What the scheduler remembers is better than nothing.
                if gone:
                    raise
        if self.scheduler_comm is None:
            raise ClusterError("logs_missing", "there are no logs: the cluster did not start", "")
        return await super()._get_logs(cluster=cluster, scheduler=scheduler, workers=workers)


def _refuse_unknown(function: Any, unknown: dict[str, Any]) -> None:
    known = [name for name in inspect.signature(function).parameters if name not in ("self", "unknown")]
    refuse_unknown(unknown, known)
