"""What takes the place of `LocalCluster` in a stranger's tests: stock and counted, or Towline's.

Owns the translation of argument names. Must not make up behaviour: what Towline does not offer raises here, and a test
that asks for it is lost, or stands in `skip.txt` with that reason. Driven by `plugin.py`.
"""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any, ClassVar
from urllib.parse import urlsplit

from distributed import LocalCluster

import towline

#: Arguments that choose how `LocalCluster` does what ours does in its own way, whatever the value.
OWN_WAY = {"dashboard_address", "host", "processes", "scheduler_port", "scheduler_sync_interval", "security"}


class Stock(LocalCluster):
    """The original, counted."""

    made: ClassVar[int] = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        Stock.made += 1
        super().__init__(*args, **kwargs)


class Ours(towline.Cluster):
    """`towline.Cluster` under the argument names of `LocalCluster`."""

    made: ClassVar[int] = 0
    alive: ClassVar[weakref.WeakSet[Ours]] = weakref.WeakSet()

    def __init__(
        self,
        n_workers: int | None = None,
        *,
        threads_per_worker: int | None = None,
        memory_limit: int | str | None = "auto",
        silence_logs: Any = True,
        name: str | None = None,
        loop: Any = None,
        asynchronous: bool = False,
        **others: Any,
    ) -> None:
        Ours.made += 1
        Ours.alive.add(self)
        # One process that is a worker of many threads, or one worker for each of a few cores.
        n_workers = n_workers if n_workers is not None else 1 if others.get("processes") is False else 2
        super().__init__(
            n_workers,
            worker_threads=threads_per_worker,
            worker_memory=None if memory_limit == "auto" else memory_limit,
            name=name,
            loop=loop,
            asynchronous=asynchronous,
            wait_for_workers=True,
            progress="none",
            **{name: value for name, value in others.items() if name not in OWN_WAY},
        )

    @classmethod
    def security_of(cls, address: str) -> Any:
        """The keys for the scheduler at an address, if it is one of ours."""
        return next((one.security for one in cls.alive if one.scheduler_address == address), None)

    @property
    def workers(self) -> dict[Any, Any]:
        """Workers as far as another process can know them; `LocalCluster` gives the objects themselves."""
        known = self.scheduler_info["workers"].items()
        return {info["name"]: SimpleNamespace(address=at, nthreads=info["nthreads"]) for at, info in known}

    @property
    def scheduler(self) -> SimpleNamespace:
        """The scheduler as far as another process can know it."""
        address = self.scheduler_address
        return SimpleNamespace(address=address, port=urlsplit(address).port, workers=self.scheduler_info["workers"])
