"""What a person may ask of a cluster: arguments in, a checked request out. Pure.

Owns names, units, defaults and the sentences for what is not there yet. Must not do any input or output.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from dask.utils import parse_bytes, parse_timedelta
from distributed.system import MEMORY_LIMIT

from towline._errors import ClusterError
from towline._foreign import FOREIGN

__all__ = ["Options", "name_or_id", "refuse_unknown", "seconds", "wanted_workers"]

Duration = float | int | str | timedelta

#: `no_client_timeout="auto"` for a cluster that ends with its object; one that outlives it waits for idleness alone.
_NO_CLIENT_AFTER = 2 * 60

#: The control plane's cap; it has the last word.
_MAX_LIFETIME = 7 * 24 * 3600.0
_MAX_WORKERS = 10_000
#: A worker needs this to start.
_LEAST_MEMORY = 64 * 1024 * 1024
#: More memory than any machine has, and still a number that every part can hold.
_MAX_MEMORY = 1 << 60
_MAX_TAGS = 20
_MAX_TAG_TEXT = 256
_TAG_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./:-]{0,63}")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Options:
    """A checked request. Durations are in seconds, memory in bytes."""

    n_workers: int
    name: str | None = None
    backend: str = "local"
    processes: int = 1
    threads: int = 1
    memory_limit: int | None = None
    nanny: bool = True
    resources: tuple[tuple[str, int], ...] = ()
    idle_after: int | None = 20 * 60
    no_client_after: int | None = _NO_CLIENT_AFTER
    max_lifetime: int = 24 * 3600
    tags: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(
        cls,
        *,
        n_workers: object,
        name: object = None,
        backend: object = "local",
        worker_processes: object = 1,
        worker_threads: object = None,
        worker_memory: Any = None,
        worker_nanny: object = True,
        worker_resources: object = None,
        idle_timeout: Duration | None = "20 minutes",
        no_client_timeout: Duration | None = "auto",
        shutdown_on_close: bool = True,
        max_lifetime: Duration = "24 hours",
        tags: object = None,
        cores: int | None = None,
        memory: int = MEMORY_LIMIT,
    ) -> Options:
        """Check every argument.

        Raises
        ------
        ClusterError
            ``argument_invalid``, naming the argument and what it takes.
        """
        workers = _count("n_workers", n_workers, 0, _MAX_WORKERS)
        processes = _count("worker_processes", worker_processes, 1, 1024)
        if worker_threads is None:
            # All workers of the `local` backend share this machine.
            threads = max(1, (cores or os.cpu_count() or 1) // max(1, workers * processes))
        else:
            threads = _count("worker_threads", worker_threads, 1, 4096)
        memory_limit = _memory(worker_memory)
        if memory_limit is None and backend == "local":
            # Likewise: left to its host, each would take the whole machine's memory for its own and none would spill.
            memory_limit = max(_LEAST_MEMORY, memory // max(1, workers * processes))
        return cls(
            n_workers=workers,
            name=_name(name),
            backend=_text("backend", backend),
            processes=processes,
            threads=threads,
            memory_limit=memory_limit,
            nanny=_flag("worker_nanny", worker_nanny),
            resources=_resources(worker_resources),
            idle_after=_or_never("idle_timeout", idle_timeout),
            no_client_after=_no_client(no_client_timeout, shutdown_on_close),
            max_lifetime=seconds("max_lifetime", max_lifetime, most=_MAX_LIFETIME),
            tags=_tags(tags),
        )

    def body(self, *, owner_key: str, environment: Mapping[str, Any]) -> dict[str, Any]:
        """The request that asks for this cluster."""
        body: dict[str, Any] = {
            "backend": self.backend,
            "n_workers": self.n_workers,
            "owner_key": owner_key,
            "environment": dict(environment),
            "worker": {
                "processes": self.processes,
                "threads": self.threads,
                "memory_limit": self.memory_limit,
                "nanny": self.nanny,
                "resources": [{"name": name, "amount": amount} for name, amount in self.resources],
            },
            "idle_after": self.idle_after,
            "no_client_after": self.no_client_after,
            "max_lifetime": self.max_lifetime,
            "tags": dict(self.tags),
        }
        if self.name is not None:
            body["name"] = self.name
        return body


def refuse_unknown(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse keyword arguments that do not exist, naming the nearest that does.

    Raises
    ------
    TypeError
        As Python does for an unexpected argument, with more to go on.
    """
    known = sorted(known)
    for name in given:
        hint = FOREIGN.get(name)
        if hint is None:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(known)}"
        raise TypeError(f"towline.Cluster has no argument `{name}`: {hint}")


def seconds(argument: str, value: Duration, *, least: float = 1, most: float = math.inf) -> int:
    """A duration as whole seconds: a number of seconds, text such as ``"20 minutes"``, or a timedelta."""
    try:
        if isinstance(value, bool):
            raise TypeError
        parsed = float(parse_timedelta(value, default="s"))
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        raise _invalid(argument, value, 'takes seconds, text such as "20 minutes", or a timedelta') from None
    if not (math.isfinite(parsed) and least <= parsed <= most):
        limit = f"at least {least:g} s" if most is math.inf else f"between {least:g} s and {most:g} s"
        raise _invalid(argument, value, f"must be {limit}")
    return math.ceil(parsed)


def name_or_id(value: object) -> str:
    """What names a cluster that exists. It becomes part of an address: nothing else may look like one."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise _invalid("name", value, "takes the name or the id of a cluster")
    return value


def wanted_workers(wait_for_workers: object, n_workers: int) -> int:
    """How many workers a start waits for: all, none, a number, or a share of those asked for."""
    if wait_for_workers is True:
        return n_workers
    if wait_for_workers is False or wait_for_workers is None:
        return 0
    if isinstance(wait_for_workers, int) and 0 <= wait_for_workers <= n_workers:
        return wait_for_workers
    if isinstance(wait_for_workers, float) and 0.0 <= wait_for_workers <= 1.0:
        return math.ceil(n_workers * wait_for_workers)
    raise _invalid(
        "wait_for_workers",
        wait_for_workers,
        f"takes True, False, a number up to {n_workers}, or a share between 0.0 and 1.0",
    )


def _invalid(argument: str, value: object, takes: str) -> ClusterError:
    return ClusterError(
        "argument_invalid", f"`{argument}` {takes}; it was given {value!r:.80}", f"Change `{argument}`."
    )


def _or_never(argument: str, value: Duration | None) -> int | None:
    return None if value is None else seconds(argument, value, most=_MAX_LIFETIME)


def _no_client(value: Duration | None, shutdown_on_close: bool) -> int | None:
    if value == "auto":
        return _NO_CLIENT_AFTER if shutdown_on_close else None
    return _or_never("no_client_timeout", value)


def _count(argument: str, value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _invalid(argument, value, "takes a whole number")
    if not least <= value <= most:
        raise _invalid(argument, value, f"must be between {least} and {most}")
    return value


def _text(argument: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise _invalid(argument, value, "takes text")
    return value


def _flag(argument: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _invalid(argument, value, "takes True or False")
    return value


def _name(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise _invalid("name", value, "takes 1 to 63 characters of a-z, 0-9 and -, not at its ends -")
    return value


def _memory(value: Any) -> int | None:
    if value is None:
        return None
    try:
        if isinstance(value, bool):
            raise TypeError
        amount = int(parse_bytes(value))
    except (TypeError, ValueError, KeyError, OverflowError):
        raise _invalid("worker_memory", value, 'takes bytes or text such as "4 GiB"') from None
    if amount < _LEAST_MEMORY:
        raise _invalid("worker_memory", value, "must be at least 64 MiB: a worker needs that to start")
    if amount > _MAX_MEMORY:
        raise _invalid("worker_memory", value, "must be at most 1 EiB")
    return amount


def _resources(value: object) -> tuple[tuple[str, int], ...]:
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise _invalid("worker_resources", value, 'takes a dictionary such as {"GPU": 1}')
    return tuple(
        (_text("worker_resources", name), _count(f"worker_resources[{name!r}]", amount, 1, 2**31 - 1))
        for name, amount in sorted(value.items(), key=lambda item: str(item[0]))
    )


def _tags(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _invalid("tags", value, 'takes a dictionary such as {"team": "weather"}')
    if len(value) > _MAX_TAGS:
        raise _invalid("tags", value, f"takes at most {_MAX_TAGS} tags")
    return {_tag_name(name): _tag_text(f"tags[{name!r}]", text) for name, text in value.items()}


def _tag_name(value: object) -> str:
    if not isinstance(value, str) or not _TAG_NAME.fullmatch(value):
        raise _invalid(
            "tags", value, "takes names of 1 to 64 letters, digits and -_./: that begin with a letter or digit"
        )
    return value


def _tag_text(argument: str, value: object) -> str:
    text = _text(argument, value)
    if len(text) > _MAX_TAG_TEXT or text != text.strip() or any(unicodedata.category(c) == "Cc" for c in text):
        raise _invalid(argument, value, f"takes 1 to {_MAX_TAG_TEXT} visible characters, without space at its ends")
    return text
