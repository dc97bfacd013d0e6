"""Dask's security loader: `Client("tls://host:port")` without a cluster object, where a key of that cluster is.

Owns finding a cluster by its scheduler's address among the files of this machine, and Dask's configuration key that
names the loader. Must not make or admit keys: a living cluster object has some, and a machine that joined.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dask.config

from towline._errors import ClusterError
from towline._security import ClusterSecurity, endpoints

__all__ = ["ADDRESSES", "configure", "folder_of", "is_open_here", "load_security"]

#: Ending of the file beside a client's key that says where its scheduler is.
ADDRESSES = ".scheduler.json"
_TERM = "towline.load_security"


def configure() -> None:
    """Name the loader in Dask's configuration, unless somebody has named one."""
    # As a default: a person's own file, variable or `dask.config.set` stays in force.
    dask.config.update_defaults({"distributed": {"client": {"security-loader": _TERM}}})


def load_security(info: Mapping[str, Any]) -> ClusterSecurity | None:
    """The TLS settings for the scheduler at an address, for Dask's key ``distributed.client.security-loader``.

    Parameters
    ----------
    info : mapping
        ``address``: what the client was given.

    Returns
    -------
    ClusterSecurity or None
        None when this machine holds no client key of a cluster whose scheduler is there.
    """
    address = info.get("address")
    if not isinstance(address, str):
        return None
    try:
        parts = urlsplit(address)
        if parts.scheme != "tls" or parts.port is None:
            return None
        wanted = endpoints([address])
    except (ValueError, ClusterError):
        return None
    # The newest first: a process that was killed leaves its files, and ports come round again.
    for file in sorted(_clients(), key=_age):
        found = _security(file, wanted, parts.port)
        if found is not None:
            return found
    return None


def is_open_here(cluster: str) -> bool:
    """Whether a key on this machine opens a cluster without anybody being asked."""
    folder = folder_of(cluster)
    return (folder / "owner.key").is_file() or any(folder.glob(f"client-joined-*{ADDRESSES}"))


def folder_of(cluster: str) -> Path:
    """Where this machine's keys of a cluster are."""
    return _state() / cluster


def _state() -> Path:
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "towline" / "clusters"


def _clients() -> list[Path]:
    try:
        return list(_state().glob(f"cl-*/client-*{ADDRESSES}"))
    except OSError:
        return []


def _age(file: Path) -> float:
    try:
        return -file.stat().st_mtime
    except OSError:
        return 0.0


def _security(file: Path, wanted: frozenset[tuple[str, int]], port: int) -> ClusterSecurity | None:
    """The settings of one client, if its scheduler is where somebody dials. Others' and torn files are passed by."""
    try:
        if file.stat().st_uid != os.getuid():
            return None
        addresses = json.loads(file.read_text(encoding="utf-8"))["scheduler"]
        # Names are resolved only where the port fits: a name service may be slow.
        near = [address for address in addresses if urlsplit(address).port == port]
        if not near or not wanted & endpoints(near):
            return None
        key = file.name.removesuffix(ADDRESSES)
        files = {part: file.with_name(key + ending) for part, ending in _FILES.items()}
        if not all(path.is_file() for path in files.values()):
            return None
        return ClusterSecurity(file.parent.name, scheduler_addresses=addresses, **files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ClusterError):
        return None


_FILES = {"ca_file": ".ca.crt", "certificate_file": ".crt", "key_file": ".key"}
