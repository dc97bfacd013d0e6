"""What the control plane says about a cluster, as typed values.

Owns the shape of its answers as far as this package uses them; fields it does not know are left alone, so that a newer
control plane can say more. Must not do any input or output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from towline._errors import ClusterError

__all__ = ["ClientView", "ClusterView", "HostView", "Identity", "OutOfMemory", "Reason", "RequestView"]

#: States in which nothing changes any more.
_TERMINAL = frozenset({"failed", "stopped"})


@dataclass(frozen=True)
class Reason:
    """Why something is where it is: a stable word, a sentence, what to do."""

    code: str
    message: str
    remedy: str

    @classmethod
    def parse(cls, value: object) -> Reason | None:
        """Read a reason; null is none."""
        if value is None:
            return None
        table = _table(value, "reason")
        return cls(_text(table, "code"), _text(table, "message"), str(table.get("remedy") or ""))

    def as_dict(self) -> dict[str, str]:
        """For progress events."""
        return {"code": self.code, "message": self.message, "remedy": self.remedy}


@dataclass(frozen=True)
class OutOfMemory:
    """What the kernel has killed of one Dask process for want of memory. Sizes are in bytes; None is not known."""

    process: str
    pid: int
    kills: int
    peak: int | None
    limit: int | None

    @classmethod
    def of_host(cls, host: Mapping[str, Any]) -> tuple[OutOfMemory, ...]:
        """Read those of a host's processes that have lost something."""
        found = []
        for process in _list(host, "processes"):
            memory = process.get("out_of_memory") if isinstance(process, dict) else None
            if isinstance(memory, dict):
                kills, pid = _number(memory, "kills") or 0, _number(process, "pid") or 0
                peak, limit = _number(memory, "peak"), _number(memory, "limit")
                found.append(cls(_text(process, "name"), pid, kills, peak, limit))
        return tuple(found)


@dataclass(frozen=True)
class HostView:
    """One host: which role, where it is in its start, and why it is late or lost."""

    id: str
    role: str
    state: str
    reason: Reason | None
    phases: tuple[tuple[str, int], ...]
    waiting_for: str | None
    late: bool
    sign_off: dict[str, Any] | None
    gpus_unused: bool = False
    out_of_memory: tuple[OutOfMemory, ...] = ()

    @classmethod
    def parse(cls, value: object) -> HostView:
        """Read one host of a cluster."""
        table = _table(value, "host")
        current = table.get("current")
        phases = tuple(
            (_text(_table(phase, "phase"), "phase"), int(phase.get("millis", 0))) for phase in _list(table, "phases")
        )
        return cls(
            id=_text(table, "id"),
            role=_text(table, "role"),
            state=_text(table, "state"),
            reason=Reason.parse(table.get("reason")),
            phases=phases,
            waiting_for=str(current["waiting_for"]) if isinstance(current, dict) and "waiting_for" in current else None,
            late=bool(current.get("late")) if isinstance(current, dict) else False,
            sign_off=table.get("sign_off") if isinstance(table.get("sign_off"), dict) else None,
            gpus_unused=table.get("gpus_unused_since_ms") is not None,
            out_of_memory=OutOfMemory.of_host(table),
        )

    @property
    def reached(self) -> str | None:
        """The last phase it reached."""
        return self.phases[-1][0] if self.phases else None


@dataclass(frozen=True)
class ClientView:
    """An admitted client and, once issued, its certificate."""

    id: str
    certificate: str | None
    person: str | None


@dataclass(frozen=True)
class RequestView:
    """A client key that asks to be admitted. Its key is not read here: only the binary makes a code of one."""

    client: str
    person: str
    state: str


@dataclass(frozen=True)
class ClusterView:
    """A cluster as the control plane sees it."""

    id: str
    name: str
    workspace: str
    owner: str
    backend: str
    state: str
    reason: Reason | None
    n_workers: int
    adaptive: Mapping[str, int] | None
    shape: Mapping[str, Any]
    addresses: tuple[str, ...]
    cluster_ca: str | None
    clients: tuple[ClientView, ...]
    requests: tuple[RequestView, ...]
    hosts: tuple[HostView, ...]
    logs_kind: str
    logs_directory: str
    logs_place: str
    logs_look: str
    revision: int
    raw: Mapping[str, Any] = field(repr=False, compare=False, default_factory=dict)

    @classmethod
    def parse(cls, value: object) -> ClusterView:
        """Read a cluster.

        Raises
        ------
        ClusterError
            ``answer_invalid`` when it is not one.
        """
        table = _table(value, "cluster")
        scheduler = table.get("scheduler") or {}
        logs = table.get("logs") or {}
        clients = tuple(
            ClientView(_text(_table(client, "client"), "id"), client.get("certificate"), client.get("person"))
            for client in _list(table, "clients")
        )
        requests = tuple(
            RequestView(_text(_table(asked, "request"), "client"), _text(asked, "person"), _text(asked, "state"))
            for asked in _list(table, "admission_requests")
        )
        return cls(
            id=_text(table, "id"),
            name=_text(table, "name"),
            workspace=_text(table, "workspace"),
            owner=str(table.get("owner", "")),
            backend=str(table.get("backend", "")),
            state=_text(table, "state"),
            reason=Reason.parse(table.get("reason")),
            n_workers=int(table.get("n_workers", 0)),
            adaptive=table.get("adaptive"),
            shape=table.get("worker") or {},
            addresses=tuple(str(address) for address in scheduler.get("addresses", ())),
            cluster_ca=table.get("cluster_ca"),
            clients=clients,
            requests=requests,
            hosts=tuple(HostView.parse(host) for host in _list(table, "hosts")),
            logs_kind=str(logs.get("kind", "")),
            logs_directory=str(logs.get("directory", "")),
            logs_place=str(logs.get("place") or ""),
            logs_look=str(logs.get("look") or ""),
            revision=int(table.get("revision", 0)),
            raw=table,
        )

    @property
    def is_terminal(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in _TERMINAL

    def certificate(self, client: str) -> str | None:
        """The certificate of one client, once it was issued."""
        return next((view.certificate for view in self.clients if view.id == client), None)

    def hosts_of(self, role: str) -> tuple[HostView, ...]:
        """The hosts of one role."""
        return tuple(host for host in self.hosts if host.role == role)

    def failure(self) -> ClusterError:
        """Why it is not there any more, as an error."""
        if self.reason is not None:
            return ClusterError(self.reason.code, self.reason.message, self.reason.remedy)
        lost = next((host for host in self.hosts if host.reason is not None), None)
        if lost is not None and lost.reason is not None:
            where = f"{lost.role} host {lost.id}: {lost.reason.message}"
            return ClusterError(lost.reason.code, where, lost.reason.remedy)
        return ClusterError(
            f"cluster_{self.state}",
            f"the cluster {self.name} is {self.state}",
            f"See `towline cluster show {self.name}` for what its hosts said.",
        )


@dataclass(frozen=True)
class Identity:
    """Who we are to the control plane, and what it offers."""

    person: str
    workspace: str
    trust_domain: str
    version: str
    backends: tuple[str, ...]

    @classmethod
    def parse(cls, value: object) -> Identity:
        """Read the answer of ``whoami``."""
        table = _table(value, "whoami")
        return cls(
            person=_text(table, "person"),
            workspace=_text(table, "workspace"),
            trust_domain=_text(table, "trust_domain"),
            version=_text(table, "version"),
            backends=tuple(str(backend) for backend in _list(table, "backends")),
        )


def _invalid(what: str) -> ClusterError:
    return ClusterError(
        "answer_invalid",
        f"the control plane's answer has no valid {what}",
        "Package and control plane may be of different versions: compare `towline version` with the server's.",
    )


def _table(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _invalid(what)
    return value


def _text(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str):
        raise _invalid(f"`{key}`")
    return value


def _number(table: Mapping[str, Any], key: str) -> int | None:
    value = table.get(key)
    return value if isinstance(value, int) else None


def _list(table: Mapping[str, Any], key: str) -> list[Any]:
    value = table.get(key, [])
    if not isinstance(value, list):
        raise _invalid(f"`{key}`")
    return value
