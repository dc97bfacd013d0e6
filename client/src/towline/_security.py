"""TLS between this client and a cluster's Dask processes.

Owns the `Security` object that a `Client` uses, and the check that every process we connect to is who its certificate
says: a member of this very cluster, and the scheduler where we dial the scheduler. Dask itself checks only that the
cluster's CA made the certificate, so any worker could pose as the scheduler. Must not make keys or certificates.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distributed.security import Security

from towline._errors import ClusterError

__all__ = ["ClusterSecurity", "Member", "endpoints", "member_of"]

#: `spiffe://<trust domain>/workspace/<id>/cluster/<id>/host/<id>/role/<role>`, every part of a closed alphabet.
_MEMBER = re.compile(
    r"spiffe://(?P<domain>[a-z0-9.-]+)/workspace/(?P<workspace>ws-[a-z2-7]{16})/cluster/(?P<cluster>cl-[a-z2-7]{16})"
    r"/host/(?P<host>[a-z0-9-]{1,64})/role/(?P<role>scheduler|worker|client)"
)


class Member:
    """Who a Dask certificate says its holder is."""

    __slots__ = ("cluster", "host", "role")

    def __init__(self, cluster: str, host: str, role: str) -> None:
        self.cluster = cluster
        self.host = host
        self.role = role


def member_of(certificate: Mapping[str, Any] | None) -> Member | None:
    """Read the member from a certificate as `SSLSocket.getpeercert` gives it.

    Returns
    -------
    Member or None
        None when there is not exactly one URI name, or it is not of our form.
    """
    names = (certificate or {}).get("subjectAltName", ())
    uris = [value for kind, value in names if kind == "URI"]
    match = _MEMBER.fullmatch(uris[0]) if len(uris) == 1 else None
    return Member(match["cluster"], match["host"], match["role"]) if match else None


class ClusterSecurity(Security):
    """Dask's `Security` for one cluster, which also checks the role of whoever answers.

    Parameters
    ----------
    cluster : str
        The cluster's id.
    ca_file, certificate_file, key_file : Path
        PEM files: the cluster's CA, this client's certificate and key.
    scheduler_addresses : iterable of str
        `tls://host:port`; whoever answers there must be the scheduler.
    """

    # No `__slots__` here: `Security` takes its own for the list of its parameters.

    def __init__(
        self,
        cluster: str,
        *,
        ca_file: Path,
        certificate_file: Path,
        key_file: Path,
        scheduler_addresses: Iterable[str],
    ) -> None:
        super().__init__(
            require_encryption=True,
            tls_ca_file=str(ca_file),
            tls_client_cert=str(certificate_file),
            tls_client_key=str(key_file),
            tls_min_version=ssl.TLSVersion.TLSv1_3,
        )
        self.cluster = cluster
        self.endpoints = endpoints(scheduler_addresses)
        #: Why the last connection was refused by the role check, if one was.
        self.refusal: ClusterError | None = None

    # `Security` lists its own slots when it shows itself: keep ours out of it.
    def _attr_to_dict(self) -> dict[str, Any]:
        return {name: f"Local ({getattr(self, name)})" for name in ("tls_ca_file", "tls_client_cert", "tls_client_key")}

    def _get_tls_context(self, tls: Mapping[str, Any], purpose: ssl.Purpose) -> ssl.SSLContext | None:
        context = super()._get_tls_context(tls, purpose)
        if context is not None and purpose is ssl.Purpose.SERVER_AUTH:
            context.sslsocket_class = _checking_socket(self)
        return context

    def check(self, certificate: Mapping[str, Any] | None, peer: tuple[str, int] | None) -> None:
        """Refuse a peer that is not what it must be.

        Parameters
        ----------
        certificate : mapping
            The verified certificate of the peer.
        peer : (host, port) or None
            Where we dialled. None means the scheduler, wherever it is.

        Raises
        ------
        ClusterError
            ``scheduler_not_genuine`` or ``member_not_genuine``.
        """
        member = member_of(certificate)
        is_scheduler_address = peer is None or peer in self.endpoints
        wanted = {"scheduler"} if is_scheduler_address else {"scheduler", "worker"}
        if member is not None and member.cluster == self.cluster and member.role in wanted:
            return
        found = f"role {member.role} of cluster {member.cluster}" if member else "no name of a Towline cluster"
        where = f"{peer[0]}:{peer[1]}" if peer else "the scheduler's address"
        self.refusal = ClusterError(
            "scheduler_not_genuine" if is_scheduler_address else "member_not_genuine",
            f"whoever answers at {where} is not {' or '.join(sorted(wanted))} of cluster {self.cluster}: "
            f"its certificate has {found}",
            "Do not send data to this cluster. Stop it (`towline cluster stop`) and tell its owner.",
        )
        raise self.refusal


def _checking_socket(security: ClusterSecurity) -> type[ssl.SSLSocket]:
    class CheckingSocket(ssl.SSLSocket):
        """Checks the peer's role before a byte of ours is sent."""

        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            name = self.getpeername()
            peer = (_plain(name[0]), name[1]) if isinstance(name, tuple) else None
            try:
                security.check(self.getpeercert(), peer)
            except ClusterError as error:
                # The kind that tornado closes the connection on.
                raise ssl.SSLError(ssl.SSL_ERROR_SSL, error.message) from error

    return CheckingSocket


def endpoints(addresses: Iterable[str]) -> frozenset[tuple[str, int]]:
    """The socket addresses behind Dask addresses, names resolved."""
    found: set[tuple[str, int]] = set()
    for address in addresses:
        parts = urlsplit(address)
        if parts.scheme != "tls" or not parts.hostname or parts.port is None:
            raise ClusterError(
                "answer_invalid",
                f"the scheduler's address {address!r} is not of the form tls://host:port",
                "Towline connects by TLS only. Compare `towline version` with the server's.",
            )
        try:
            for *_, place in socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM):
                found.add((_plain(str(place[0])), int(place[1])))
        except OSError as error:
            raise ClusterError(
                "scheduler_unreachable",
                f"the scheduler's host name {parts.hostname} is not known here: {error}",
                "Check this machine's name service and network.",
            ) from error
    return frozenset(found)


def _plain(host: str) -> str:
    """An IPv4 address dressed as IPv6, undressed."""
    return host.removeprefix("::ffff:")
