"""How many worker hosts a cluster has: what people ask for, turned into what the control plane is asked.

Adaptive scaling runs in the cluster's scheduler and goes on when this process is gone: `Adaptive` is a handle on it,
with the names that Dask's own has. Must not decide how many workers are needed.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import dask.config
from dask.utils import parse_bytes, parse_timedelta
from distributed.core import Status
from distributed.deploy.adaptive import Adaptive as DaskAdaptive

from towline._errors import ClusterError
from towline._lifecycle import Lifecycle
from towline._views import ClusterView

__all__ = ["Adaptive", "Scalable", "hosts_for", "terms"]

#: Where the base class holds what `adapt` was given before, as Dask does: calling again changes only what is given.
_KEPT = ("minimum", "maximum", "interval", "wait_count", "target_duration")


def hosts_for(argument: str, value: Any, shape: Mapping[str, Any], kind: str) -> int:
    """Worker hosts that have so many cores or so much memory together.

    Parameters
    ----------
    argument : str
        What the person calls it.
    value : number or str
        How much; memory in bytes or as text.
    shape : mapping
        A worker host: ``processes``, ``threads`` and ``memory_limit`` of each.
    kind : {"cores", "memory"}
    """
    each = int(shape["processes"]) * int((shape["threads"] if kind == "cores" else shape["memory_limit"]) or 0)
    if not each:
        raise ClusterError(
            "argument_invalid",
            f"`{argument}` needs workers with a memory limit, and those of this cluster have none",
            "Give a number of worker hosts, or make the cluster with `worker_memory=`.",
        )
    try:
        amount = float(value) if kind == "cores" else float(parse_bytes(value))
        if isinstance(value, bool) or not math.isfinite(amount) or amount < 0:
            raise ValueError
    except (TypeError, ValueError, KeyError, OverflowError):
        takes = "a number of cores" if kind == "cores" else 'bytes or text such as "64 GiB"'
        raise _invalid(argument, value, f"takes {takes}") from None
    return math.ceil(amount / each)


def terms(shape: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What the control plane is asked for adaptive scaling; durations in milliseconds.

    Parameters
    ----------
    shape : mapping
        A worker host.
    given : mapping
        What `adapt` was given; what is missing is as in Dask's configuration (``distributed.adaptive``).
    """

    def value(name: str) -> Any:
        found = given.get(name)
        return dask.config.get(f"distributed.adaptive.{name.replace('_', '-')}") if found is None else found

    minimum, maximum = _hosts("minimum", value("minimum")), value("maximum")
    # More than any cluster may have is as good as no limit, which is how Dask's configuration says it.
    most = None if maximum == math.inf else _hosts("maximum", maximum)
    for kind in ("cores", "memory"):
        for bound in ("minimum", "maximum"):
            if (amount := given.get(f"{bound}_{kind}")) is None:
                continue
            hosts = hosts_for(f"{bound}_{kind}", amount, shape, kind)
            if bound == "minimum":
                minimum = max(minimum, hosts)
            else:
                most = hosts if most is None else min(most, hosts)
    if most is not None and minimum > most:
        raise ClusterError(
            "argument_invalid", f"`minimum` is {minimum}, more than `maximum`, {most}", "Change one of them."
        )
    return {
        "minimum": minimum,
        "maximum": most,
        "interval_ms": _milliseconds("interval", value("interval"), 10),
        "wait_count": _hosts("wait_count", value("wait_count"), 1),
        "target_duration_ms": _milliseconds("target_duration", value("target_duration"), 1),
    }


def _hosts(argument: str, value: Any, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise _invalid(argument, value, f"takes a whole number from {least} up")
    return value


def _milliseconds(argument: str, value: str | float | timedelta, least: int) -> int:
    try:
        return max(least, math.ceil(1000 * float(parse_timedelta(value, default="s"))))
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        raise _invalid(argument, value, 'takes seconds, text such as "5 s", or a timedelta') from None


def _invalid(argument: str, value: object, takes: str) -> ClusterError:
    return ClusterError(
        "argument_invalid", f"`{argument}` {takes}; it was given {value!r:.80}", f"Change `{argument}`."
    )


class Adaptive:
    """A handle on a cluster's adaptive scaling, which runs in its scheduler.

    Attributes
    ----------
    minimum, maximum : int
        Between these many worker hosts; without a limit of its own `maximum` is infinite.
    interval, target_duration : float
        Seconds.
    wait_count : int
        Looks in a row that must find fewer hosts enough before there are fewer.
    state : {"running", "stopped"}
        Whether it scales, as far as this handle knows.
    log : deque
        Changes of the number of hosts: time and what happened.
    """

    def __init__(self, cluster: Scalable, asked: Mapping[str, Any]) -> None:
        self.cluster = cluster
        self.minimum = int(asked["minimum"])
        self.maximum: float = math.inf if asked["maximum"] is None else int(asked["maximum"])
        self.interval = asked["interval_ms"] / 1000
        self.wait_count = int(asked["wait_count"])
        self.target_duration = asked["target_duration_ms"] / 1000
        self.state = "running"
        self.log: deque[tuple[float, dict[str, Any]]] = deque(maxlen=1000)

    @property
    def periodic_callback(self) -> Any:
        """None once stopped, as with Dask's own; here it stands for what runs in the scheduler."""
        return self if self.is_running() else None

    def is_running(self) -> bool:
        """Whether it scales, as far as this handle knows."""
        return self.state == "running"

    def saw(self, view: ClusterView, before: ClusterView) -> None:
        """Take in a newer view of the cluster."""
        if view.adaptive is None and before.adaptive is not None:
            self.state = "stopped"
        elif view.n_workers != before.n_workers:
            status = "up" if view.n_workers > before.n_workers else "down"
            self.log.append((time.time(), {"status": status, "n": view.n_workers}))

    def stop(self) -> Any:
        """End adaptive scaling: the cluster keeps as many worker hosts as it has now."""
        if self.state != "running":
            return None
        self.state = "stopped"
        return self.cluster._keep_number()

    def __repr__(self) -> str:
        return f"<Adaptive: {self.state}, minimum={self.minimum}, maximum={self.maximum}>"


class Scalable(Lifecycle):
    """The part of a cluster object that has to do with its size."""

    _adaptive: Adaptive | None
    _adaptive_options: dict[str, Any]
    #: The number of worker hosts that the control plane was last asked for, and the revision of its answer.
    _number: tuple[int, int] | None = None
    #: Worker hosts that were counted as going when it was asked.
    _going: frozenset[str] = frozenset()

    @property
    def plan(self) -> set[str]:
        """Names of the worker hosts that should be there."""
        view = self._view
        return {host.id for host in view.hosts_of("worker") if host.state in ("starting", "up")} if view else set()

    @property
    def requested(self) -> set[str]:
        """Names of the worker hosts that the backend has made."""
        view = self._view
        if view is None:
            return set()
        made = {"created", "booted", "enrolled", "synced", "launched", "joined"}
        return {host.id for host in view.hosts_of("worker") if host.id in self.plan and host.reached in made}

    def scale(self, n: int = 0, memory: int | str | None = None, cores: int | None = None) -> Any:
        """Set the number of worker hosts; ends adaptive scaling.

        Hosts that are too many get no more tasks, and end when their data has moved to others.

        Parameters
        ----------
        n : int
            Worker hosts.
        memory : int or str, optional
            Memory limit of all workers together; in bytes or as text.
        cores : int, optional
            Threads of all workers together. The largest of the three wins.

        Returns
        -------
        None
            In asynchronous use something that can be awaited, and says if it failed.
        """
        wanted = _hosts("n", n)
        if memory is not None:
            wanted = max(wanted, hosts_for("memory", memory, self._shape(), "memory"))
        if cores is not None:
            wanted = max(wanted, hosts_for("cores", cores, self._shape(), "cores"))
        return self._now(self._scale, wanted)

    def scale_up(self, n: int = 0, memory: int | str | None = None, cores: int | None = None) -> Any:
        """Have at least `n` worker hosts; parameters as for `scale`."""
        return self.scale(max(_hosts("n", n), len(self.plan)), memory=memory, cores=cores)

    def scale_down(self, workers: Iterable[str]) -> Any:
        """End the hosts of these workers, once their data has moved to others.

        Parameters
        ----------
        workers : iterable of str
            Names or addresses of workers, or of their hosts.
        """
        if isinstance(workers, str):
            workers = [workers]
        return self._now(self._scale_down, [str(worker) for worker in workers])

    def adapt(self, Adaptive: Any = None, **kwargs: Any) -> Any:  # noqa: N803 - Dask's name
        """Let the scheduler choose the number of worker hosts, as its work needs; calling again changes what is given.

        It runs in the cluster: it goes on when this process is gone. `scale` ends it.

        Parameters
        ----------
        minimum, maximum : int
            Between these many worker hosts; by default from 0 to as many as the control plane allows.
        minimum_cores, maximum_cores : int
            Likewise by threads of all workers together.
        minimum_memory, maximum_memory : int or str
            Likewise by memory limit of all workers together.
        interval : str, float or timedelta, default "1 s"
            Between two looks at the work.
        wait_count : int, default 3
            Looks in a row that must find fewer hosts enough before there are fewer.
        target_duration : str, float or timedelta, default "5 s"
            How long the work at hand may take: the shorter, the more hosts are asked for.

        Returns
        -------
        Adaptive
            A handle with `minimum`, `maximum`, `log` and `stop()`.
        """
        if Adaptive is not None and Adaptive is not DaskAdaptive:
            raise ClusterError(
                "adaptive_class_unsupported",
                "a class of your own cannot scale this cluster: adaptive scaling runs in its scheduler, not here",
                "Leave `Adaptive` out; `minimum`, `maximum`, `target_duration` and `wait_count` steer it.",
            )
        if "worker_key" in kwargs:
            raise ClusterError(
                "argument_invalid", "`worker_key` is not there: workers of one host end together", "Leave it out."
            )
        bounds = {f"{bound}_{kind}" for bound in ("minimum", "maximum") for kind in ("cores", "memory")}
        for name in kwargs:
            if name not in bounds and name not in _KEPT:
                known = ", ".join(sorted(bounds | set(_KEPT)))
                raise TypeError(f"Cluster.adapt has no argument `{name}`: there are {known}")
        options = {**getattr(self, "_adaptive_options", {}), **kwargs}
        asked = terms(self._shape(), options)
        self._adaptive_options = options
        handle = globals()["Adaptive"](self, asked)
        if self._adaptive is not None:
            # Its successor goes on where it was: nothing is stopped in the cluster.
            self._adaptive.state = "stopped"
        self._adaptive = handle
        try:
            self._now(self._adapt, asked)
        except BaseException:
            handle.state = "stopped"
            raise
        return handle

    # -- what is asked of the control plane --------------------------------------------------------------------------

    def _now(self, do: Any, argument: Any) -> Any:
        if not self.asynchronous:
            return self.sync(do, argument)
        # Begun at once, as with Dask's own clusters: there it takes effect also when nobody awaits it.
        doing = asyncio.ensure_future(do(argument))
        self._preparing.add(doing)
        doing.add_done_callback(self._preparing.discard)
        return doing

    def _running(self) -> ClusterView:
        view = self._view
        if view is None or self.status != Status.running:
            raise ClusterError(
                "cluster_not_running", f"the cluster {self.name} is {self.status.name}", "Make a new one."
            )
        return view

    def _shape(self) -> Mapping[str, Any]:
        return self._view.shape if self._view is not None else {}

    async def _scale(self, n: int) -> None:
        view = self._running()
        if self._adaptive is not None:
            self._adaptive.state = "stopped"
        answer = await self._attempt.plane.scale(view.id, n)
        self._number = (answer.n_workers, answer.revision)

    async def _scale_down(self, workers: list[str]) -> None:
        view = self._running()
        assert self.scheduler_comm is not None
        if view.adaptive is None:
            # The smaller number may reach the scheduler long before the word on whom to retire.
            await self.scheduler_comm.towline_prefer(workers=workers)
            names = {info["name"]: address for address, info in self.scheduler_info["workers"].items()}
            hosts = {host.id for host in view.hosts_of("worker") if host.state in ("starting", "up")}
            going = {host for host in hosts if any(_is_of(worker, host, names) for worker in workers)}
            # The stream of views lags behind what was asked just before this.
            number = view.n_workers if self._number is None or self._number[1] < view.revision else self._number[0]
            new = going - self._going
            # First the number and who goes, so that nobody replaces them and nobody else goes.
            answer = await self._attempt.plane.scale(view.id, max(0, number - len(new)), new)
            self._number = (answer.n_workers, answer.revision)
            self._going = self._going | new
        await self.scheduler_comm.towline_retire(workers=workers)

    async def _adapt(self, asked: Mapping[str, Any]) -> None:
        view = self._running()
        await self._attempt.plane.adapt(view.id, asked)
        watch = self._attempt.watch
        handle = self._adaptive
        if watch is not None and handle is not None:
            others = [listener for listener in watch.listeners if not isinstance(_owner(listener), Adaptive)]
            watch.listeners[:] = [*others, handle.saw]

    def _keep_number(self) -> Any:
        view = self._view
        if view is None or self.status != Status.running:
            return None
        return self._now(self._scale, view.n_workers)

    def _scaling_status(self) -> str:
        """For Jupyter: how it scales, and how many hosts are there of those wanted."""
        adaptive = self._view is not None and self._view.adaptive is not None
        workers, hosts = len(self.scheduler_info["workers"]), len(self.plan)
        each = int(self._shape().get("processes", 1))
        count = workers if workers == hosts * each else f"{workers} / {hosts * each}"
        return f"""
        <table>
            <tr><td style="text-align: left;">Scaling mode: {"Adaptive" if adaptive else "Manual"}</td></tr>
            <tr><td style="text-align: left;">Workers: {count}</td></tr>
        </table>
        """


def _owner(method: object) -> object:
    return getattr(method, "__self__", None)


def _is_of(worker: str, host: str, names: Mapping[str, str]) -> bool:
    """Whether a person's word for a worker (name, address, host) means one on this host."""
    name = next((name for name, address in names.items() if address == worker), worker)
    return name == host or name.startswith(f"{host}-")
