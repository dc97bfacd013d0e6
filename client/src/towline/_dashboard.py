"""The link to Dask's dashboard: a proxy of the `towline` binary, started when somebody asks for the link.

Owns that one child: it lives until it is closed, at the latest as long as this interpreter, whose end closes its
standard input. Must not raise: a cluster without a dashboard is a cluster. Driven by `_cluster.py` and `_lifecycle.py`.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import subprocess
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import dask.config

from towline._binary import Binary

__all__ = ["Dashboard", "format_link"]

#: A proxy that could not be had is tried again after this long.
_AGAIN_SECONDS = 30.0
#: How long the child may take to end.
_END_SECONDS = 5.0
_TEMPLATE = "{scheme}://{host}:{port}/status"

_all: weakref.WeakSet[Dashboard] = weakref.WeakSet()


class Dashboard:
    """The proxy of one cluster object.

    Parameters
    ----------
    binary : Binary
        Whose verb it is.
    note : callable
        Told once why there is no link.
    """

    def __init__(self, binary: Binary, note: Callable[[str], None]) -> None:
        self._binary = binary
        self._note = note
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._tried = -_AGAIN_SECONDS
        self._closed = False
        self._process = os.getpid()
        _all.add(self)

    def link(self, cluster: str, seconds: float, once: bool = False) -> str:
        """The link, waited for at most so long (`once`: only the first time); empty when there is none, or none yet."""
        # A forked child has a copy of this object, but the proxy is its parent's.
        if os.getpid() != self._process:
            return ""
        try:
            child = self._begin(cluster)
        except OSError as error:
            self._note(f"there is no dashboard: {self._binary.path} could not be started: {error}")
            return ""
        if child is None:
            return ""
        patience = 0.0 if once and child.waited_for else seconds
        child.waited_for = True
        if not child.told.wait(patience):
            return ""
        if child.trouble is not None and not child.noted:
            child.noted = True
            self._note(f"there is no dashboard: {child.trouble}")
        if child.place is None or child.ended.is_set():
            return ""
        try:
            return format_link(child.place)
        except Exception as error:
            if not child.noted:
                child.noted = True
                self._note(f"distributed.dashboard.link cannot be filled in: {error!r}")
            return str(child.place["link"])

    def _begin(self, cluster: str) -> _Child | None:
        with self._lock:
            if self._closed:
                return None
            running = self._child is not None and not self._child.ended.is_set()
            if not running and time.monotonic() - self._tried >= _AGAIN_SECONDS:
                self._tried = time.monotonic()
                self._child = _Child(
                    self._binary.open("cluster", "dashboard", cluster, "--json", "--until-stdin-closes")
                )
            return self._child

    async def close_soon(self) -> None:
        """Close in a thread: the child takes a moment to end."""
        if self._child is None:
            self._closed = True
            return
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def close(self) -> None:
        """End the proxy and wait for its end. Closing twice is fine."""
        with self._lock:
            self._closed = True
            child, self._child = self._child, None
        if child is not None and os.getpid() == self._process:
            child.end()


class _Child:
    """One run of the proxy, and a thread that reads what it says to its end."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        #: The proxy's one object, once it has said it.
        self.place: dict[str, Any] | None = None
        self.trouble: str | None = None
        self.noted = False
        self.waited_for = False
        self.told = threading.Event()
        self.ended = threading.Event()
        threading.Thread(target=self._read, name="towline-dashboard", daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                said = json.loads(line)
                if said.get("event") == "error":
                    self.trouble = f"{said['message']} {said.get('remedy') or ''}".strip()
                else:
                    self.place = {"link": said["link"], "host": said["host"], "port": said["port"]}
                    self.place["secret"] = said["secret"]
                self.told.set()
        # Waited for here, so that none is left as a zombie.
        self.process.wait()
        if self.place is None and self.trouble is None:
            self.trouble = f"`towline cluster dashboard` ended with status {self.process.returncode}"
        self.ended.set()
        self.told.set()

    def end(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        for further in (self.process.terminate, self.process.kill):
            if self.ended.wait(_END_SECONDS):
                return
            with contextlib.suppress(OSError):
                further()
        self.ended.wait(_END_SECONDS)


def format_link(place: dict[str, Any]) -> str:
    """The link in the form that Dask's setting ``distributed.dashboard.link`` gives.

    The secret follows the port wherever the port stands, as in ``{JUPYTERHUB_SERVICE_PREFIX}/proxy/{port}/status``.
    """
    template = dask.config.get("distributed.dashboard.link", _TEMPLATE)
    filled = {**os.environ, "scheme": "http", "host": place["host"], "port": f"{place['port']}/{place['secret']}"}
    return str(template.format(**filled))


@atexit.register
def _end_all() -> None:
    for dashboard in list(_all):
        with contextlib.suppress(Exception):
            dashboard.close()
