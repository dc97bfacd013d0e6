"""The interpreter's end: clusters that are still open are told to end.

Owns the list of open clusters and the last words. By then the loop's thread pool takes no more work, so this speaks
plain blocking HTTP, briefly, and never raises.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import logging
import os
import time
import weakref
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from distributed.core import Status

if TYPE_CHECKING:
    from towline._lifecycle import Lifecycle

__all__ = ["done", "expect"]

logger = logging.getLogger("towline")

#: For all clusters together.
_SECONDS = 8.0
#: For one.
_SECONDS_EACH = 4.0

_open: weakref.WeakSet[Lifecycle] = weakref.WeakSet()
_process = os.getpid()


def expect(cluster: Lifecycle) -> None:
    """Remember a cluster until it is closed."""
    _open.add(cluster)


def done(cluster: Lifecycle) -> None:
    """Forget a cluster that was closed."""
    _open.discard(cluster)


@atexit.register
def _say() -> None:
    # A forked child has a copy of the list, but the clusters are its parent's.
    if os.getpid() != _process:
        return
    until = time.monotonic() + _SECONDS
    for cluster in list(_open):
        if not cluster.shutdown_on_close or cluster.status == Status.closed or cluster.cluster_id is None:
            continue
        if time.monotonic() < until:
            with contextlib.suppress(Exception):
                _delete(cluster, cluster.cluster_id)
        # Dask warns of unclosed clusters when they are collected; this one has been seen to.
        cluster.status = Status.closed


def _delete(cluster: Lifecycle, name: str) -> None:
    plane = cluster._attempt.plane
    parts = urlsplit(plane.profile.url)
    connection = http.client.HTTPSConnection(
        parts.hostname or "", parts.port or 443, timeout=_SECONDS_EACH, context=plane.tls
    )
    try:
        connection.request(
            "DELETE",
            f"{parts.path}/api/v1/clusters/{quote(name, safe='')}",
            headers={"Authorization": f"Bearer {plane.profile.token}"},
        )
        answer = connection.getresponse()
        answer.read()
        if 200 <= answer.status < 300:
            # Its end is the control plane's to see through; nobody needs the keys for that.
            cluster._attempt.forget(ended=True)
    finally:
        connection.close()
