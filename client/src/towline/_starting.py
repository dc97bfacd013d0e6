"""From a request to a cluster that can be dialled: the order of things, and what is waited for.

Owns the two ways there (make a cluster, join one by name), following its events, and the certificate files. Must not
connect to Dask: `_cluster.py` does. Driven by `_cluster.py`, which also undoes what was begun here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from towline._admission import Asking, Door
from towline._api import ControlPlane
from towline._binary import Binary
from towline._errors import ClusterError
from towline._loader import ADDRESSES, folder_of
from towline._options import Options
from towline._preparation import ClientKey, Keys, admit, client_key, joined_key, new_keys, prepare, sign
from towline._progress import Reporter
from towline._security import ClusterSecurity
from towline._version import __version__
from towline._views import ClusterView

__all__ = ["Attempt", "Watch", "waiting_for"]

#: How long the control plane may be silent while a cluster starts.
_PATIENCE = 120.0
#: How long an unfinished create call may go on when its cluster is no longer wanted: its answer has the id to stop.
_LAST_ANSWER_SECONDS = 10.0


class Watch:
    """The newest view of one cluster, kept up to date by its event stream.

    Parameters
    ----------
    plane : ControlPlane
        Whom to ask.
    reporter : Reporter
        Told of what changes.
    first : ClusterView
        The view there is.
    """

    def __init__(self, plane: ControlPlane, reporter: Reporter, first: ClusterView) -> None:
        self.view = first
        self.patience: float | None = _PATIENCE
        #: Called with each newer view and the one before.
        self.listeners: list[Callable[[ClusterView, ClusterView], None]] = []
        self._plane = plane
        self._reporter = reporter
        self._changed = asyncio.Event()
        self._error: BaseException | None = None
        reporter.cluster(first, None)
        self._task = asyncio.ensure_future(self._follow())

    async def _follow(self) -> None:
        try:
            stream = self._plane.follow(self.view.id, patience=lambda: self.patience)
            async with contextlib.aclosing(stream):
                async for view in stream:
                    if view.revision >= self.view.revision:
                        self._reporter.cluster(view, self.view)
                        for listener in self.listeners:
                            listener(view, self.view)
                        self.view = view
                    self._changed.set()
        except Exception as error:
            self._error = error
        finally:
            self._changed.set()

    async def until(self, ready: Callable[[ClusterView], bool]) -> ClusterView:
        """Wait until a view is as wished. The caller sets the limit; a lost stream raises its error."""
        while not ready(self.view):
            if self._task.done():
                raise self._error or self.view.failure()
            self._changed.clear()
            # Looked at again after the flag is down, so that nothing is missed in between.
            if not ready(self.view) and not self._task.done():
                await self._changed.wait()
        return self.view

    async def close(self) -> None:
        """Stop following."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class Attempt:
    """One way to a cluster, and what has been made on it so far.

    Attributes
    ----------
    watch : Watch or None
        There as soon as the cluster has an id.
    key : ClientKey or None
        The client key on this machine, once admitted.
    idle_after : int or None
        Seconds of idleness that were asked for, where this way makes the cluster.
    nanny : bool
        Whether the workers have Dask's nanny, where this way makes the cluster.
    asking : str or None
        Who has to do what, while the owner's answer is waited for.
    """

    def __init__(self, plane: ControlPlane, binary: Binary, reporter: Reporter) -> None:
        self.plane = plane
        self.watch: Watch | None = None
        self.key: ClientKey | None = None
        self.idle_after: int | None = None
        self.nanny = True
        self.asking: str | None = None
        self._door: Door | None = None
        self._binary = binary
        self._reporter = reporter
        self._making: asyncio.Task[Keys] | None = None
        self._keys: Keys | None = None
        self._creating: asyncio.Task[ClusterView] | None = None
        self._security_files: list[Path] = []

    async def create(self, options: Options) -> ClusterSecurity:
        """Make a cluster: environment and keys, create, admission, then hosts."""
        with self._reporter.step("check", "asking the control plane who we are") as step:
            await self._binary.check_version()
            identity = await self.plane.whoami()
            if identity.version != __version__:
                raise ClusterError(
                    "version_mismatch",
                    f"the control plane is version {identity.version}, this package is version {__version__}",
                    "Install the package and the binary of the control plane's version.",
                )
            if options.backend not in identity.backends:
                raise ClusterError(
                    "backend_missing",
                    f"the control plane has no backend {options.backend!r}; it has: {', '.join(identity.backends)}",
                    "Choose one of these with `backend=`.",
                )
            step.done(f"{identity.person} in workspace {identity.workspace}")
        self.idle_after, self.nanny = options.idle_after, options.nanny
        keys = await self._new_keys()
        environment = await prepare(self._binary, self._reporter)
        with self._reporter.step("create", "asking for the cluster") as step:
            body = options.body(owner_key=keys.owner_key, environment=environment.spec)
            self._creating = asyncio.ensure_future(self.plane.create(body, uuid.uuid4().hex))
            # Shielded: when the person gives up now, the answer is still needed to end what it names.
            view = await asyncio.shield(self._creating)
            self.watch = Watch(self.plane, self._reporter, view)
            self.key = await admit(self._binary, keys, view.id)
            self._open(await self.plane.admit(view.id, self.key.request()))
            step.done(f"cluster {view.name} ({view.id})")
        return await self._hosts()

    async def _new_keys(self) -> Keys:
        self._making = asyncio.ensure_future(new_keys(self._binary))
        # Shielded, as is creating: whoever gives up now must still learn which folder to remove.
        self._keys = await asyncio.shield(self._making)
        return self._keys

    async def join(self, name: str) -> ClusterSecurity:
        """Join an existing cluster: with a fresh key where the owner key is, elsewhere with one the owner admits."""
        with self._reporter.step("find", f"looking for cluster {name}") as step:
            await self._binary.check_version()
            view = await self.plane.cluster(name)
            if view.state not in ("starting", "running"):
                if view.is_terminal:
                    # What is left of an earlier object, which was closed before the end.
                    _remove(folder_of(view.id), view.id)
                error = view.failure()
                raise ClusterError(
                    error.code if view.reason else "cluster_ended",
                    f"the cluster {name} is {view.state}" + (f": {error.message}" if view.reason else ""),
                    "Make a new one: `towline.Cluster(...)`.",
                )
            try:
                self.key = await client_key(self._binary, view.id)
            except ClusterError as error:
                if error.code != "owner_key_elsewhere":
                    raise
            if self.key is not None:
                view = await self.plane.admit(view.id, self.key.request())
                self.watch = Watch(self.plane, self._reporter, view)
                self._open(view)
            step.done(f"cluster {view.name} ({view.id})")
        if self.key is None:
            await self._ask(view)
        return await self._hosts()

    async def _ask(self, view: ClusterView) -> None:
        key = await joined_key(self._binary, view.id)
        asking = Asking(self.plane, self._reporter, key, view)
        self.watch = Watch(self.plane, self._reporter, await asking.ask(view.id))
        self.key, self.asking = key, asking.sentence
        await asking.wait(self.watch)
        self.asking = None

    def _open(self, view: ClusterView) -> None:
        """The owner key is here: tell of others who come."""
        assert self.key is not None
        assert self.watch is not None
        self._door = Door(self._reporter, self.key.key_file.parent, view)
        self.watch.listeners.append(self._door.saw)

    async def admit(self, cluster: str, code: str) -> str:
        """Let in the client of this code."""
        if self._door is None:
            return await sign(self._binary, cluster, code)
        client = None
        self._door.admitting()
        try:
            client = await sign(self._binary, cluster, code)
            return client
        finally:
            self._door.admitted(client)

    async def _hosts(self) -> ClusterSecurity:
        """Wait for the scheduler and our certificate, and write the certificate files."""
        assert self.watch is not None
        assert self.key is not None
        key = self.key
        with self._reporter.step("hosts", "starting hosts") as step:

            def dialable(view: ClusterView) -> bool:
                return view.state not in ("starting", "running") or bool(
                    view.state == "running" and view.addresses and view.cluster_ca and view.certificate(key.id)
                )

            view = await self.watch.until(dialable)
            if view.state != "running":
                raise view.failure()
            step.done("the scheduler is there")
        # From now on a control plane that is away harms nobody: the cluster lives without it.
        self.watch.patience = None
        certificate, ca = view.certificate(key.id), view.cluster_ca
        assert certificate is not None
        assert ca is not None
        folder = key.key_file.parent
        certificate_file = _write(folder / f"{key.id}.crt", certificate)
        ca_file = _write(folder / f"{key.id}.ca.crt", ca)
        # The last, so that whoever finds it finds the others.
        addresses_file = _write(folder / f"{key.id}{ADDRESSES}", json.dumps({"scheduler": view.addresses}))
        # A key with which this machine joined is every process's of it, and needs no second admission.
        if key.code is None:
            self._security_files = [addresses_file, certificate_file, ca_file, key.key_file]
        return await asyncio.get_running_loop().run_in_executor(
            None,
            # Host names are resolved here, which may take a while.
            lambda: ClusterSecurity(
                view.id,
                ca_file=ca_file,
                certificate_file=certificate_file,
                key_file=key.key_file,
                scheduler_addresses=view.addresses,
            ),
        )

    async def find_id(self) -> str | None:
        """The cluster's id, if one was or is just being made; what is just being made is waited for."""
        if self._making is not None and self._keys is None:
            await asyncio.wait({self._making}, timeout=_LAST_ANSWER_SECONDS)
            if self._making.done() and not self._making.cancelled() and self._making.exception() is None:
                self._keys = self._making.result()
        if self.watch is not None:
            return self.watch.view.id
        if self._creating is None:
            return None
        try:
            return (await asyncio.wait_for(asyncio.shield(self._creating), _LAST_ANSWER_SECONDS)).id
        except Exception:
            # It failed by itself, or nobody can say. If there is a cluster, its max_lifetime ends it.
            self._creating.cancel()
            return None

    def forget(self, ended: bool) -> None:
        """Remove this client's files; the whole folder, owner key included, when the cluster has ended."""
        for file in self._security_files:
            with contextlib.suppress(OSError):
                file.unlink()
        # Only folders of the very name are removed. Keys of a cluster that has ended open nothing any more, and those
        # that were never admitted never did.
        if self.watch is not None and self.key is not None and (ended or self.watch.view.is_terminal):
            _remove(self.key.key_file.parent, self.watch.view.id)
        if self.key is None and self._keys is not None:
            _remove(self._keys.client.key_file.parent, self._keys.handle)


def waiting_for(view: ClusterView | None, doing: str) -> str:
    """What a start is waiting for, in words; before there is a cluster that is what is being done."""
    if view is None:
        return doing
    waits = [
        f"{host.role} host {host.id} ({host.waiting_for or host.state}{', late' if host.late else ''})"
        for host in view.hosts
        if host.state == "starting"
    ]
    if not waits:
        return "its hosts" if view.state == "starting" else "this client's certificate"
    more = f" and {len(waits) - 3} more" if len(waits) > 3 else ""
    return ", ".join(waits[:3]) + more


def _remove(folder: Path, name: str) -> None:
    # The name came over the network: `..` and the like are no cluster's.
    if folder.name == name and re.fullmatch(r"(cl|k)-[a-z0-9]{1,40}", name):
        shutil.rmtree(folder, ignore_errors=True)


def _write(file: Path, text: str) -> Path:
    """Write a file that only we may read, whole or not at all."""
    # Two processes may write the same file: each whole, and the last one stays.
    draft = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as handle:  # noqa: PTH123 - opened by descriptor
        handle.write(text)
    draft.replace(file)
    return file
